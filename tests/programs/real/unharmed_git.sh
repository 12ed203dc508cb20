# Repositories are made, packed, cloned and checked.
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_AUTHOR_DATE='2001-02-03 04:05:06 +0000'
export GIT_COMMITTER_NAME=c GIT_COMMITTER_EMAIL=c@d GIT_COMMITTER_DATE='2001-02-03 04:05:06 +0000'
git config --global init.defaultBranch main
git init -q origin
cd origin || exit
for i in 1 2 3 4; do
    seq $((i * 1000)) >numbers
    head -c $((i * 70000)) /dev/zero >zeros
    git add . && git commit -qm "commit $i"
done
git branch side HEAD~2
git gc -q --aggressive --prune=now
git count-objects -v | grep -E 'count|in-pack|packs|garbage'
cd .. || exit
git clone -q origin by-link
git clone -q "file://$PWD/origin" by-protocol
for clone in by-link by-protocol; do
    (cd $clone && git log --format=%H -n2 && git fsck --full && git status --short && sha256sum numbers zeros)
done
cd by-protocol || exit
echo more >>numbers
git diff --stat
git stash -q && git stash pop -q
git commit -qam more && git push -q origin HEAD:pushed
git -C ../origin rev-parse pushed
git repack -adq && git fsck
