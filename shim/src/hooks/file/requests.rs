//! The requests of ioctl(2) that change what a file or a block device shows, as data.
//!
//! The file needs no other module: a test that compares it with the kernel's own lists includes it as it is.

/// A request of ioctl(2).
pub struct Request {
    /// Its low 32 bits. The kernel looks at no others (fs/ioctl.c takes an unsigned int).
    pub number: u32,
    /// The kernel's name for it.
    pub name: &'static str,
    /// What it does.
    pub effect: Effect,
    /// The offsets in its argument at which the descriptors of other files stand that it changes, as 32-bit numbers.
    pub others: &'static [u64],
}

/// What a request does.
#[derive(Clone, Copy)]
pub enum Effect {
    /// Changes no byte of the file, but may change its time of modification.
    Times,
    /// Replaces bytes of the file.
    Bytes(Names),
    /// Empties the file.
    Truncate,
    /// Makes a block device show other bytes: its snapshots are preserved as if all bytes were replaced. A partition has a page
    /// cache of its own, so snapshots of what lies on the device become doubtful.
    Turns,
    /// Changes a block device past its page cache: its snapshots become doubtful.
    Behind(Commands),
    /// Makes the device that the argument names show other bytes, while the device may answer no read: its snapshots become
    /// doubtful.
    Mapper {
        /// Whether the request has no such effect if its flags say that it suspends the device.
        resumes: bool,
    },
    /// Puts pages into memory that may show a hole of a file (userfaultfd): address and length are words 0 and 2 of the argument.
    /// Snapshots of the file become doubtful.
    Fills,
}

/// How a request names the bytes that it replaces. Words of its argument are counted from 0 and have 64 bits.
#[derive(Clone, Copy)]
pub enum Names {
    /// The words of offset and length.
    Range(u64, u64),
    /// The same in units of 512 bytes.
    Sectors(u64, u64),
    /// `struct file_clone_range`: the destination's offset is its last field, and a length of 0 means "to the end".
    CloneRange,
    /// The whole file.
    Everything,
}

/// Which of the commands that a request takes change something.
#[derive(Clone, Copy)]
pub enum Commands {
    /// Any may.
    Every,
    /// `struct sg_io_hdr`: all but those that bring data from the device, and the known ones without data.
    Scsi,
    /// `struct nvme_passthru_cmd` and its kin on a namespace: all but the operation codes that are known to read.
    NvmeIo,
    /// The same on a controller.
    NvmeAdmin,
    /// `struct mmc_ioc_cmd`: the commands whose first word says that they write.
    Mmc,
}

const fn request(number: u32, name: &'static str, effect: Effect) -> Request {
    Request { number, name, effect, others: &[] }
}

const fn also_changing(others: &'static [u64], number: u32, name: &'static str) -> Request {
    Request { number, name, effect: Effect::Bytes(Names::Everything), others }
}

/// linux/fs.h, linux/falloc.h, linux/ext4.h, linux/btrfs.h, linux/f2fs.h, fs/xfs/libxfs/xfs_fs.h, linux/loop.h, linux/nbd.h,
/// linux/blkzoned.h, linux/dm-ioctl.h, linux/raid/md_u.h, scsi/sg.h, linux/nvme_ioctl.h, linux/mmc/ioctl.h, linux/hdreg.h,
/// linux/sed-opal.h, linux/cdrom.h, linux/userfaultfd.h.
pub const REQUESTS: &[Request] = &[
    // Files.
    request(0x4004_9409, "FICLONE", Effect::Bytes(Names::Everything)),
    request(0x4020_940D, "FICLONERANGE", Effect::Bytes(Names::CloneRange)),
    request(0x4030_5828, "FS_IOC_RESVSP", Effect::Times),
    request(0x4030_582A, "FS_IOC_RESVSP64", Effect::Times),
    request(0x4030_5829, "FS_IOC_UNRESVSP", Effect::Bytes(Names::Everything)),
    request(0x4030_582B, "FS_IOC_UNRESVSP64", Effect::Bytes(Names::Everything)),
    request(0x4030_5839, "FS_IOC_ZERO_RANGE", Effect::Bytes(Names::Everything)),
    request(0x6611, "EXT4_IOC_SWAP_BOOT", Effect::Bytes(Names::Everything)),
    // donor_fd
    also_changing(&[4], 0xC028_660F, "EXT4_IOC_MOVE_EXT"),
    // sx_fdtarget, sx_fdtmp
    also_changing(&[8, 16], 0xC0C0_586D, "XFS_IOC_SWAPEXT"),
    // file1_fd
    also_changing(&[0], 0x4028_5881, "XFS_IOC_EXCHANGE_RANGE"),
    also_changing(&[0], 0x4058_5883, "XFS_IOC_COMMIT_RANGE"),
    // Before Linux 5.17. They give the file the size that their argument says.
    request(0x4030_580A, "XFS_IOC_ALLOCSP", Effect::Truncate),
    request(0x4030_580B, "XFS_IOC_FREESP", Effect::Truncate),
    request(0x4030_5824, "XFS_IOC_ALLOCSP64", Effect::Truncate),
    request(0x4030_5825, "XFS_IOC_FREESP64", Effect::Truncate),
    request(0x4080_9440, "BTRFS_IOC_ENCODED_WRITE", Effect::Bytes(Names::Range(2, 4))),
    request(0xF501, "F2FS_IOC_START_ATOMIC_WRITE", Effect::Bytes(Names::Everything)),
    request(0xF502, "F2FS_IOC_COMMIT_ATOMIC_WRITE", Effect::Bytes(Names::Everything)),
    request(0xF503, "F2FS_IOC_START_VOLATILE_WRITE", Effect::Bytes(Names::Everything)),
    request(0xF504, "F2FS_IOC_RELEASE_VOLATILE_WRITE", Effect::Bytes(Names::Everything)),
    request(0xF505, "F2FS_IOC_ABORT_ATOMIC_WRITE", Effect::Bytes(Names::Everything)),
    request(0xF519, "F2FS_IOC_START_ATOMIC_REPLACE", Effect::Truncate),
    // dst_fd
    also_changing(&[0], 0xC020_F509, "F2FS_IOC_MOVE_RANGE"),
    request(0x4018_F514, "F2FS_IOC_SEC_TRIM_FILE", Effect::Bytes(Names::Range(0, 1))),
    // Block devices.
    request(0x1277, "BLKDISCARD", Effect::Bytes(Names::Range(0, 1))),
    request(0x127D, "BLKSECDISCARD", Effect::Bytes(Names::Range(0, 1))),
    request(0x127F, "BLKZEROOUT", Effect::Bytes(Names::Range(0, 1))),
    request(0x4010_1283, "BLKRESETZONE", Effect::Bytes(Names::Sectors(0, 1))),
    request(0x4010_1288, "BLKFINISHZONE", Effect::Bytes(Names::Sectors(0, 1))),
    request(0x4C00, "LOOP_SET_FD", Effect::Turns),
    request(0x4C01, "LOOP_CLR_FD", Effect::Turns),
    request(0x4C02, "LOOP_SET_STATUS", Effect::Turns),
    request(0x4C04, "LOOP_SET_STATUS64", Effect::Turns),
    request(0x4C06, "LOOP_CHANGE_FD", Effect::Turns),
    request(0x4C07, "LOOP_SET_CAPACITY", Effect::Turns),
    request(0x4C0A, "LOOP_CONFIGURE", Effect::Turns),
    request(0xAB00, "NBD_SET_SOCK", Effect::Behind(Commands::Every)),
    request(0xAB02, "NBD_SET_SIZE", Effect::Behind(Commands::Every)),
    request(0xAB04, "NBD_CLEAR_SOCK", Effect::Behind(Commands::Every)),
    request(0xAB07, "NBD_SET_SIZE_BLOCKS", Effect::Behind(Commands::Every)),
    request(0xAB08, "NBD_DISCONNECT", Effect::Behind(Commands::Every)),
    request(0xC138_FD06, "DM_DEV_SUSPEND", Effect::Mapper { resumes: true }),
    request(0xC138_FD0E, "DM_TARGET_MSG", Effect::Mapper { resumes: false }),
    request(0x4014_0921, "ADD_NEW_DISK", Effect::Behind(Commands::Every)),
    request(0x4048_0923, "SET_ARRAY_INFO", Effect::Behind(Commands::Every)),
    request(0x400C_0930, "RUN_ARRAY", Effect::Behind(Commands::Every)),
    request(0x0932, "STOP_ARRAY", Effect::Behind(Commands::Every)),
    request(0x2285, "SG_IO", Effect::Behind(Commands::Scsi)),
    request(0x1, "SCSI_IOCTL_SEND_COMMAND", Effect::Behind(Commands::Every)),
    request(0x5393, "CDROM_SEND_PACKET", Effect::Behind(Commands::Every)),
    request(0x5309, "CDROMEJECT", Effect::Behind(Commands::Every)),
    request(0x4030_4E42, "NVME_IOCTL_SUBMIT_IO", Effect::Behind(Commands::NvmeIo)),
    request(0xC048_4E43, "NVME_IOCTL_IO_CMD", Effect::Behind(Commands::NvmeIo)),
    request(0xC050_4E48, "NVME_IOCTL_IO64_CMD", Effect::Behind(Commands::NvmeIo)),
    request(0xC050_4E49, "NVME_IOCTL_IO64_CMD_VEC", Effect::Behind(Commands::NvmeIo)),
    request(0xC048_4E41, "NVME_IOCTL_ADMIN_CMD", Effect::Behind(Commands::NvmeAdmin)),
    request(0xC050_4E47, "NVME_IOCTL_ADMIN64_CMD", Effect::Behind(Commands::NvmeAdmin)),
    request(0xC048_B300, "MMC_IOC_CMD", Effect::Behind(Commands::Mmc)),
    request(0xC008_B301, "MMC_IOC_MULTI_CMD", Effect::Behind(Commands::Every)),
    request(0x031D, "HDIO_DRIVE_TASKFILE", Effect::Behind(Commands::Every)),
    request(0x031E, "HDIO_DRIVE_TASK", Effect::Behind(Commands::Every)),
    request(0x4118_70DD, "IOC_OPAL_LOCK_UNLOCK", Effect::Behind(Commands::Every)),
    request(0x4108_70E2, "IOC_OPAL_REVERT_TPR", Effect::Behind(Commands::Every)),
    request(0x4128_70E3, "IOC_OPAL_LR_SETUP", Effect::Behind(Commands::Every)),
    request(0x4110_70E5, "IOC_OPAL_ENABLE_DISABLE_MBR", Effect::Behind(Commands::Every)),
    request(0x4110_70E6, "IOC_OPAL_ERASE_LR", Effect::Behind(Commands::Every)),
    request(0x4110_70E7, "IOC_OPAL_SECURE_ERASE_LR", Effect::Behind(Commands::Every)),
    request(0x4108_70E8, "IOC_OPAL_PSID_REVERT_TPR", Effect::Behind(Commands::Every)),
    request(0x4110_70E9, "IOC_OPAL_MBR_DONE", Effect::Behind(Commands::Every)),
    request(0x4120_70EA, "IOC_OPAL_WRITE_SHADOW_MBR", Effect::Behind(Commands::Every)),
    // Memory.
    request(0xC028_AA03, "UFFDIO_COPY", Effect::Fills),
];
