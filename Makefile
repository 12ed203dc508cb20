PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
LIBRARY = target/release/libsnapshim.so
CHECKED = target/check
LIBRARIES = --workspace --exclude snapshim-command
# The command gains nothing by optimization across crates, which takes longer than all the rest.
COMMAND = CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 $(CARGO)
# Man pages and completions.
PAGES = target/pages
SHARE = $(DESTDIR)$(PREFIX)/share

.PHONY: all setup test test-libc check tests-built unit command-unit models miri planted planted-soak planted-oracle integration soak storms bench demo install uninstall clean

# The library is built by itself: crates that it shares with the command would get more features from that (command/Cargo.toml).
all:
	+$(CARGO) build --release --package libsnapshim
	+$(COMMAND) build --release --package snapshim-command
	target/release/snapshim generate $(PAGES)

# What the tests use beyond Rust, gcc, make and python3. Without root or apt-get they skip, aloud, what is missing.
setup:
	@tests/setup.sh

# What has to be compiled is compiled side by side (cargo shares make's jobs where a line has a +), and beside it what the tests use is
# fetched; then the tests have the machine.
test:
	$(MAKE) --jobs=4 --output-sync=target setup all check models tests-built command-unit
	$(MAKE) unit integration

# The integration tests with other versions of glibc, in Debian roots. Needs root and a mirror; says what it could not make.
test-libc: all
	tests/libc_roots.sh

# In a directory of its own, so that the tests are built meanwhile: the two share next to nothing, and cargo lets one at a time into a
# directory. Licences and sources of dependencies are looked at where cargo-deny is installed (cargo install --locked cargo-deny).
check:
	+$(CARGO) fmt --all --check
	+$(CARGO) clippy --target-dir $(CHECKED) --workspace --all-targets -- -D warnings
	+RUSTFLAGS="--cfg loom" $(CARGO) clippy --no-default-features --lib --target-dir target/loom -- -D warnings
	+RUSTDOCFLAGS="-D warnings" $(CARGO) doc --target-dir $(CHECKED) --no-deps --document-private-items -p snapshim
	+RUSTDOCFLAGS="-D warnings" $(CARGO) doc --target-dir $(CHECKED) --no-deps --document-private-items -p libsnapshim
	+RUSTDOCFLAGS="-D warnings" $(CARGO) doc --target-dir $(CHECKED) --no-deps --document-private-items -p snapshim-command --bins
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; \
	    else echo "SKIPPED cargo deny: it is not installed"; fi

tests-built:
	+$(CARGO) test $(LIBRARIES) --lib --tests --no-run

unit: command-unit
	$(CARGO) test $(LIBRARIES) --lib

# Optimized, as the command is: what it is made of is built once.
command-unit: all
	+$(COMMAND) test --release --package snapshim-command --bins

models:
	+RUSTFLAGS="--cfg loom" $(CARGO) test --profile models --no-default-features --test models --target-dir target/loom

# The core's unit tests, interpreted; part of `integration`. Says so where it cannot run.
miri:
	tests/miri.sh

# Every step of the protocol left out once: a model has to fail.
planted:
	tests/planted.sh

# Some steps and hooks of the library left out once: the soak has to fail.
planted-soak:
	tests/planted_soak.sh

# The same for the oracle of random histories.
planted-oracle:
	tests/planted_oracle.sh

integration: all
	tests/integration.sh

soak: planted planted-soak planted-oracle storms

# Every point at which a process can be killed or stopped, and what takes minutes by chance alone.
storms: all
	SNAPSHIM_KILL_EVERY=1 $(CARGO) test --test integration kill_points:: -- --nocapture
	SNAPSHIM_STOP_EVERY=1 $(CARGO) test --test integration stop_points:: -- --nocapture
	$(CARGO) test --test integration -- --ignored --nocapture --test-threads=1 storm:: damage:: exhaustion:: soak:: oracle:: \
	    programs_unharmed:: recipes::

bench: all
	$(CARGO) run --release --quiet --example bench
	$(CARGO) test --quiet --test integration copying::figures -- --ignored --nocapture

demo: all
	examples/demo.sh

# Needs no cargo, so that root can do it after a user's `make`.
install:
	@test -e $(LIBRARY) && test -e $(PAGES)/man/snapshim.1 || { echo "install: nothing is built; run make first" >&2; exit 1; }
	install -Dm755 $(LIBRARY) $(DESTDIR)$(PREFIX)/lib/libsnapshim.so
	install -Dm644 shim/include/snapshim.h $(DESTDIR)$(PREFIX)/include/snapshim.h
	install -Dm755 target/release/snapshim $(DESTDIR)$(PREFIX)/bin/snapshim
	install -Dm644 -t $(SHARE)/man/man1 $(PAGES)/man/*.1
	install -Dm644 $(PAGES)/bash/snapshim $(SHARE)/bash-completion/completions/snapshim
	install -Dm644 $(PAGES)/zsh/_snapshim $(SHARE)/zsh/site-functions/_snapshim
	install -Dm644 $(PAGES)/fish/snapshim.fish $(SHARE)/fish/vendor_completions.d/snapshim.fish

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/lib/libsnapshim.so $(DESTDIR)$(PREFIX)/include/snapshim.h \
	    $(DESTDIR)$(PREFIX)/bin/snapshim $(SHARE)/man/man1/snapshim.1 $(SHARE)/man/man1/snapshim-*.1 \
	    $(SHARE)/bash-completion/completions/snapshim $(SHARE)/zsh/site-functions/_snapshim \
	    $(SHARE)/fish/vendor_completions.d/snapshim.fish

clean:
	$(CARGO) clean
