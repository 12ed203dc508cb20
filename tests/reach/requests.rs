//! The ioctl(2) requests that the kernel's headers define for files and block devices, each sorted by what it can do to a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{sources, words};
use crate::common::{Scratch, root, run_ok};

/// Headers of file systems, of block devices, and of what fills memory.
const HEADERS: [&str; 20] = [
    "linux/blkpg.h",
    "linux/blkzoned.h",
    "linux/btrfs.h",
    "linux/cdrom.h",
    "linux/dm-ioctl.h",
    "linux/ext4.h",
    "linux/f2fs.h",
    "linux/fs.h",
    "linux/fscrypt.h",
    "linux/fsverity.h",
    "linux/hdreg.h",
    "linux/loop.h",
    "linux/msdos_fs.h",
    "linux/nbd.h",
    "linux/nvme_ioctl.h",
    "linux/raid/md_u.h",
    "linux/ublk_cmd.h",
    "linux/userfaultfd.h",
    "scsi/scsi_ioctl.h",
    "scsi/sg.h",
];

/// They change a file's or a device's bytes, or which bytes a device shows: the library has to know their numbers.
const CHANGES: &str = "
    BLKDISCARD BLKSECDISCARD BLKZEROOUT BLKRESETZONE BLKFINISHZONE LOOP_SET_CAPACITY
    FICLONE FICLONERANGE
    BTRFS_IOC_CLONE BTRFS_IOC_CLONE_RANGE BTRFS_IOC_ENCODED_WRITE
    EXT4_IOC_MOVE_EXT EXT4_IOC_SWAP_BOOT
    F2FS_IOC_START_ATOMIC_WRITE F2FS_IOC_START_ATOMIC_REPLACE F2FS_IOC_COMMIT_ATOMIC_WRITE F2FS_IOC_ABORT_ATOMIC_WRITE
    F2FS_IOC_ABORT_VOLATILE_WRITE
    F2FS_IOC_START_VOLATILE_WRITE F2FS_IOC_RELEASE_VOLATILE_WRITE F2FS_IOC_MOVE_RANGE F2FS_IOC_SEC_TRIM_FILE
    LOOP_SET_FD LOOP_CLR_FD LOOP_SET_STATUS LOOP_SET_STATUS64 LOOP_CHANGE_FD LOOP_CONFIGURE
    UFFDIO_COPY UFFDIO_MOVE
    DM_DEV_SUSPEND DM_TARGET_MSG
";

/// They change what a snapshot may show, and docs/not-covered.md says so in these words.
pub const NOT_COVERED: [(&str, &str); 16] = [
    ("SG_IO", "passthrough"),
    ("SCSI_IOCTL_SEND_COMMAND", "passthrough"),
    ("NVME_IOCTL_SUBMIT_IO", "passthrough"),
    ("NVME_IOCTL_IO_CMD", "passthrough"),
    ("NVME_IOCTL_IO64_CMD", "passthrough"),
    ("NVME_IOCTL_IO64_CMD_VEC", "passthrough"),
    ("NVME_IOCTL_ADMIN_CMD", "passthrough"),
    ("NVME_IOCTL_ADMIN64_CMD", "passthrough"),
    ("CDROM_SEND_PACKET", "passthrough"),
    ("HDIO_DRIVE_TASKFILE", "passthrough"),
    ("HDIO_DRIVE_TASK", "passthrough"),
    ("HDIO_DRIVE_CMD", "passthrough"),
    ("NBD_SET_SOCK", "whose server"),
    ("NBD_DO_IT", "whose server"),
    ("BTRFS_IOC_DEV_REPLACE", "a mounted block device"),
    ("BTRFS_IOC_RESIZE", "a mounted block device"),
];

/// Requests of whole groups that change no byte of a file, nor of a device that a snapshot can be of: a header of queries and
/// settings.
const HARMLESS_GROUPS: [&str; 9] =
    ["CDROM", "CDC_", "CDF_", "DVD_", "HDIO_", "TASKFILE_", "UBLK_", "UBLKSRV_", "SCSI_IOCTL_"];

/// They change no byte: queries, settings, the layout below the bytes, or a file system's names.
const CANNOT_CHANGE: &str = "
    BLKROSET BLKROGET BLKRRPART BLKGETSIZE BLKFLSBUF BLKRASET BLKRAGET BLKFRASET BLKFRAGET BLKSECTSET BLKSECTGET BLKSSZGET BLKPG
    BLKELVGET BLKELVSET BLKBSZGET BLKBSZSET BLKGETSIZE64 BLKTRACESETUP BLKTRACESETUP2 BLKTRACESTART BLKTRACESTOP BLKTRACETEARDOWN
    BLKIOMIN BLKIOOPT BLKALIGNOFF BLKPBSZGET BLKDISCARDZEROES BLKROTATIONAL BLKGETDISKSEQ BLKCRYPTOIMPORTKEY BLKCRYPTOGENERATEKEY
    BLKCRYPTOPREPAREKEY BLKREPORTZONE BLKREPORTZONEV2 BLKGETZONESZ BLKGETNRZONES BLKOPENZONE BLKCLOSEZONE
    FIBMAP FIGETBSZ FIFREEZE FITHAW FITRIM FIDEDUPERANGE
    FS_IOC_GETFLAGS FS_IOC_SETFLAGS FS_IOC_GETVERSION FS_IOC_SETVERSION FS_IOC_FIEMAP FS_IOC32_GETFLAGS FS_IOC32_SETFLAGS
    FS_IOC32_GETVERSION FS_IOC32_SETVERSION FS_IOC_FSGETXATTR FS_IOC_FSSETXATTR FS_IOC_GETFSLABEL FS_IOC_SETFSLABEL FS_IOC_GETFSUUID
    FS_IOC_GETFSSYSFSPATH FS_IOC_GETLBMD_CAP PAGEMAP_SCAN PROCMAP_QUERY
    FS_IOC_ENABLE_VERITY FS_IOC_MEASURE_VERITY FS_IOC_READ_VERITY_METADATA
    FS_IOC_SET_ENCRYPTION_POLICY FS_IOC_GET_ENCRYPTION_PWSALT FS_IOC_GET_ENCRYPTION_POLICY FS_IOC_GET_ENCRYPTION_POLICY_EX
    FS_IOC_ADD_ENCRYPTION_KEY FS_IOC_REMOVE_ENCRYPTION_KEY FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS FS_IOC_GET_ENCRYPTION_KEY_STATUS
    FS_IOC_GET_ENCRYPTION_NONCE
    BTRFS_IOC_SNAP_CREATE BTRFS_IOC_DEFRAG BTRFS_IOC_SCAN_DEV BTRFS_IOC_FORGET_DEV BTRFS_IOC_TRANS_START BTRFS_IOC_TRANS_END
    BTRFS_IOC_SYNC BTRFS_IOC_ADD_DEV BTRFS_IOC_RM_DEV BTRFS_IOC_BALANCE BTRFS_IOC_SUBVOL_CREATE BTRFS_IOC_SNAP_DESTROY
    BTRFS_IOC_DEFRAG_RANGE BTRFS_IOC_TREE_SEARCH BTRFS_IOC_TREE_SEARCH_V2 BTRFS_IOC_INO_LOOKUP BTRFS_IOC_DEFAULT_SUBVOL
    BTRFS_IOC_SPACE_INFO BTRFS_IOC_START_SYNC BTRFS_IOC_WAIT_SYNC BTRFS_IOC_SNAP_CREATE_V2 BTRFS_IOC_SUBVOL_CREATE_V2
    BTRFS_IOC_SUBVOL_GETFLAGS BTRFS_IOC_SUBVOL_SETFLAGS BTRFS_IOC_SUBVOL_SYNC_WAIT BTRFS_IOC_SCRUB BTRFS_IOC_SCRUB_CANCEL
    BTRFS_IOC_SCRUB_PROGRESS BTRFS_IOC_DEV_INFO BTRFS_IOC_FS_INFO BTRFS_IOC_BALANCE_V2 BTRFS_IOC_BALANCE_CTL
    BTRFS_IOC_BALANCE_PROGRESS BTRFS_IOC_INO_PATHS BTRFS_IOC_LOGICAL_INO BTRFS_IOC_LOGICAL_INO_V2 BTRFS_IOC_SET_RECEIVED_SUBVOL
    BTRFS_IOC_SEND BTRFS_IOC_DEVICES_READY BTRFS_IOC_QUOTA_CTL BTRFS_IOC_QGROUP_ASSIGN BTRFS_IOC_QGROUP_CREATE
    BTRFS_IOC_QGROUP_LIMIT BTRFS_IOC_QUOTA_RESCAN BTRFS_IOC_QUOTA_RESCAN_STATUS BTRFS_IOC_QUOTA_RESCAN_WAIT BTRFS_IOC_GET_DEV_STATS
    BTRFS_IOC_FILE_EXTENT_SAME BTRFS_IOC_GET_FEATURES BTRFS_IOC_SET_FEATURES BTRFS_IOC_GET_SUPPORTED_FEATURES BTRFS_IOC_RM_DEV_V2
    BTRFS_IOC_GET_SUBVOL_INFO BTRFS_IOC_GET_SUBVOL_ROOTREF BTRFS_IOC_INO_LOOKUP_USER BTRFS_IOC_SNAP_DESTROY_V2 BTRFS_IOC_ENCODED_READ
    EXT4_IOC_GETVERSION EXT4_IOC_SETVERSION EXT4_IOC_GETVERSION_OLD EXT4_IOC_SETVERSION_OLD EXT4_IOC_GETRSVSZ EXT4_IOC_SETRSVSZ
    EXT4_IOC_GROUP_EXTEND EXT4_IOC_GROUP_ADD EXT4_IOC_MIGRATE EXT4_IOC_ALLOC_DA_BLKS EXT4_IOC_RESIZE_FS EXT4_IOC_PRECACHE_EXTENTS
    EXT4_IOC_CLEAR_ES_CACHE EXT4_IOC_GETSTATE EXT4_IOC_GET_ES_CACHE EXT4_IOC_CHECKPOINT EXT4_IOC_GETFSUUID EXT4_IOC_SETFSUUID
    EXT4_IOC_SHUTDOWN EXT4_IOC_GET_TUNE_SB_PARAM EXT4_IOC_SET_TUNE_SB_PARAM EXT4_IOC32_GETVERSION EXT4_IOC32_SETVERSION
    EXT4_IOC32_GETRSVSZ EXT4_IOC32_SETRSVSZ EXT4_IOC32_GROUP_EXTEND EXT4_IOC32_GROUP_ADD
    F2FS_IOC_GARBAGE_COLLECT F2FS_IOC_WRITE_CHECKPOINT F2FS_IOC_DEFRAGMENT F2FS_IOC_FLUSH_DEVICE F2FS_IOC_GARBAGE_COLLECT_RANGE
    F2FS_IOC_GET_FEATURES F2FS_IOC_SET_PIN_FILE F2FS_IOC_GET_PIN_FILE F2FS_IOC_PRECACHE_EXTENTS F2FS_IOC_RESIZE_FS
    F2FS_IOC_GET_COMPRESS_BLOCKS F2FS_IOC_RELEASE_COMPRESS_BLOCKS F2FS_IOC_RESERVE_COMPRESS_BLOCKS F2FS_IOC_GET_COMPRESS_OPTION
    F2FS_IOC_SET_COMPRESS_OPTION F2FS_IOC_DECOMPRESS_FILE F2FS_IOC_COMPRESS_FILE F2FS_IOC_GET_DEV_ALIAS_FILE F2FS_IOC_IO_PRIO
    F2FS_IOC_SHUTDOWN
    VFAT_IOCTL_READDIR_BOTH VFAT_IOCTL_READDIR_SHORT FAT_IOCTL_GET_ATTRIBUTES FAT_IOCTL_SET_ATTRIBUTES FAT_IOCTL_GET_VOLUME_ID
    LOOP_GET_STATUS LOOP_GET_STATUS64 LOOP_SET_DIRECT_IO LOOP_SET_BLOCK_SIZE LOOP_CTL_ADD LOOP_CTL_REMOVE
    LOOP_CTL_GET_FREE
    DM_VERSION DM_REMOVE_ALL DM_LIST_DEVICES DM_DEV_CREATE DM_DEV_REMOVE DM_DEV_RENAME DM_DEV_STATUS DM_DEV_WAIT DM_DEV_ARM_POLL
    DM_TABLE_CLEAR DM_TABLE_DEPS DM_TABLE_STATUS DM_LIST_VERSIONS DM_GET_TARGET_VERSION DM_DEV_SET_GEOMETRY DM_TABLE_LOAD
    DM_MPATH_PROBE_PATHS
    NBD_SET_BLKSIZE NBD_SET_SIZE NBD_CLEAR_SOCK NBD_CLEAR_QUE NBD_PRINT_DEBUG NBD_SET_SIZE_BLOCKS NBD_DISCONNECT NBD_SET_TIMEOUT
    NBD_SET_FLAGS
    USERFAULTFD_IOC_NEW UFFDIO_API UFFDIO_REGISTER UFFDIO_UNREGISTER UFFDIO_WAKE UFFDIO_WRITEPROTECT UFFDIO_ZEROPAGE UFFDIO_CONTINUE
    UFFDIO_POISON
    NVME_IOCTL_ID NVME_IOCTL_RESET NVME_IOCTL_SUBSYS_RESET NVME_IOCTL_RESCAN NVME_URING_CMD_IO NVME_URING_CMD_IO_VEC
    NVME_URING_CMD_ADMIN NVME_URING_CMD_ADMIN_VEC
    RAID_VERSION GET_ARRAY_INFO GET_DISK_INFO RAID_AUTORUN GET_BITMAP_FILE CLEAR_ARRAY ADD_NEW_DISK HOT_REMOVE_DISK SET_ARRAY_INFO
    SET_DISK_INFO WRITE_RAID_INFO UNPROTECT_ARRAY PROTECT_ARRAY HOT_ADD_DISK SET_DISK_FAULTY HOT_GENERATE_ERROR SET_BITMAP_FILE
    RUN_ARRAY STOP_ARRAY STOP_ARRAY_RO RESTART_ARRAY_RW CLUSTERED_DISK_NACK
    SG_EMULATED_HOST SG_SET_TRANSFORM SG_GET_TRANSFORM SG_SET_RESERVED_SIZE SG_GET_RESERVED_SIZE SG_GET_SCSI_ID SG_SET_FORCE_LOW_DMA
    SG_GET_LOW_DMA SG_SET_FORCE_PACK_ID SG_GET_PACK_ID SG_GET_NUM_WAITING SG_GET_SG_TABLESIZE SG_GET_VERSION_NUM SG_SCSI_RESET
    SG_GET_REQUEST_TABLE SG_SET_KEEP_ORPHAN SG_GET_KEEP_ORPHAN SG_GET_ACCESS_COUNT SG_GET_TIMEOUT SG_SET_TIMEOUT SG_SET_DEBUG
    SG_SET_COMMAND_Q SG_GET_COMMAND_Q SG_NEXT_CMD_LEN
";

/// Whether a macro is a request: built as one, or a plain number with a name of such.
fn is_request(name: &str, value: &str) -> bool {
    let is_built =
        ["_IO(", "_IOR(", "_IOW(", "_IOWR(", "_IOC("].iter().any(|form| value.replace(' ', "").starts_with(form));
    let number =
        value.split_whitespace().next().and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    // A request has its group's letter in its second byte.
    let is_number = number.is_some_and(|number| number > 0xff);
    let is_named_so =
        ["LOOP_", "CDROM", "DVD_", "HDIO_", "SG_", "SCSI_IOCTL_"].iter().any(|group| name.starts_with(group));
    let is_flag = name.contains("_FLAG_");
    is_built || is_number && !is_flag && (is_named_so || name.contains("IOCTL_"))
}

/// The requests of a header by name.
fn requests_of(header: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new("/usr/include").join(header)).unwrap_or_default();
    let define = |line: &str| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("define")?.trim_start();
        let (name, value) = rest.split_once(char::is_whitespace)?;
        is_request(name, value.trim()).then(|| name.to_owned())
    };
    text.lines().filter_map(define).collect()
}

#[test]
fn every_request_on_files_and_devices_is_sorted_once() {
    let not_covered = NOT_COVERED.map(|(name, _)| name).join(" ");
    let mut sorted = BTreeSet::new();
    for name in [CHANGES, &not_covered, CANNOT_CHANGE].iter().flat_map(|list| list.split_whitespace()) {
        assert!(sorted.insert(name), "{name} is sorted twice");
    }
    let defined: BTreeSet<_> = HEADERS.iter().flat_map(|header| requests_of(header)).collect();
    assert!(defined.len() > 150, "the kernel's headers were read: {}", defined.len());
    let is_sorted =
        |name: &&String| sorted.contains(name.as_str()) || HARMLESS_GROUPS.iter().any(|group| name.starts_with(group));
    let unsorted: Vec<_> = defined.iter().filter(|name| !is_sorted(name)).collect();
    assert!(unsorted.is_empty(), "can these change what a snapshot shows? {unsorted:?}");
}

/// The numbers of the requests that change something, as the installed headers give them.
fn numbers() -> BTreeMap<String, u64> {
    let scratch = Scratch::new(&root().join("target/scratch"));
    let mut program = String::from("#include <stdio.h>\n#include <sys/ioctl.h>\n#include <linux/types.h>\n");
    let mut lines = String::new();
    for header in HEADERS {
        let requests = requests_of(header);
        let wanted: Vec<_> = words(CHANGES).into_iter().filter(|name| requests.contains(*name)).collect();
        if !wanted.is_empty() {
            writeln!(program, "#include <{header}>").unwrap();
        }
        for name in wanted {
            writeln!(lines, "    printf(\"{name} %lu\\n\", (unsigned long)(unsigned)({name}));").unwrap();
        }
    }
    write!(program, "int main(void)\n{{\n{lines}    return 0;\n}}\n").unwrap();
    let (source, binary) = (scratch.file("requests.c"), scratch.file("requests"));
    fs::write(&source, program).unwrap();
    run_ok(Command::new("gcc").arg("-w").arg("-o").arg(&binary).arg(&source));
    let listed = run_ok(&mut Command::new(&binary));
    let entry = |line: &str| line.split_once(' ').map(|(name, number)| (name.to_owned(), number.parse().unwrap()));
    listed.lines().filter_map(entry).collect()
}

#[test]
fn every_request_that_changes_is_taken() {
    let source = sources(&root().join("shim/src"));
    let number = |rest: &str| {
        let digits: String = rest.chars().take_while(|digit| digit.is_ascii_hexdigit() || *digit == '_').collect();
        u64::from_str_radix(&digits.replace('_', ""), 16).ok()
    };
    let known: BTreeSet<_> = source.split("0x").skip(1).filter_map(number).collect();
    let numbers = numbers();
    assert!(numbers.len() > 10, "the headers give numbers: {numbers:?}");
    let missed: Vec<_> = numbers.iter().filter(|(_, number)| !known.contains(number)).collect();
    assert!(missed.is_empty(), "ioctl(2) lets these pass: {missed:x?}");
}
