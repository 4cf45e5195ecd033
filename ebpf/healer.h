/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The records that the kernel side and healer share. src/monitor/ebpf/record.rs holds the same
 * layouts in Rust: keep them alike. All fields are naturally aligned, so there is no hidden padding.
 */
#ifndef HEALER_H
#define HEALER_H

typedef unsigned char __u8;
typedef int __s32;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define HEALER_COMM_LEN 16
/* Room for a name with its NUL, and so much more. */
#define HEALER_NAME_LEN 256
#define HEALER_NAMES_LEN (2 * HEALER_NAME_LEN)

/* An instance as healer knows it: PID in healer's namespace and field 22 of /proc/PID/stat. */
struct instance {
	__u64 start_ticks;
	__u32 pid;
	__u32 unused;
};

/* A program file: inode number and device as the kernel holds it (major << 20 | minor). */
struct file_key {
	__u64 ino;
	__u32 dev;
	__u32 unused;
};

/* What the sender of a signal passed beside its number. */
enum origin {
	ORIGIN_INFO = 0, /* a siginfo: `code` is its si_code */
	ORIGIN_NOINFO = 1, /* none: the sender is whoever ran (cgroup.kill, PDEATHSIG, SIGPIPE) */
	ORIGIN_PRIV = 2, /* the kernel itself: whoever ran is not the sender */
};

/* A signal that was sent to a watched thread group. */
struct sent {
	__u64 at; /* CLOCK_BOOTTIME; 0: none was sent */
	__s32 signal;
	__s32 code;
	__u32 origin;
	__u32 pid; /* the sender in healer's namespace; 0: outside of it */
	__u32 uid;
	__u32 unused;
	char comm[HEALER_COMM_LEN];
};

/* All that is known of the end of a watched thread group. */
struct watched {
	struct sent asked; /* the last of TERM, INT, HUP, QUIT */
	struct sent other; /* the last of all other signals that may end a process */
	__u64 ended_at; /* CLOCK_BOOTTIME; 0: it did not end, or the program did not run */
	__u64 started_at;
	__u64 run_ns; /* by the scheduler: exact */
	__u64 user_ns; /* by ticks: only their proportion counts */
	__u64 system_ns;
	__u64 peak_rss_pages;
	__s32 status; /* as wait(2) gives it */
	__u32 fatal; /* the signal that ended it for certain; 0: none is known to */
	__u64 oom_cgroup; /* of an OOM victim: its memory cgroup, whose path is in `oom_cgroups` */
	__u32 oom; /* 1: the kernel chose it as the victim of running out of memory */
	__u32 unused;
};

/* The path of a cgroup. */
struct cgroup_path {
	__u32 length; /* how many bytes of `names` are used */
	__u32 whole; /* 1: they lead up to the root that healer sees; 0: to somewhere below or beside */
	char names[HEALER_NAMES_LEN]; /* its own, its parent's and so on, each with its NUL */
};

/* Places in the map `counters`. */
enum counter {
	COUNTER_RING_FULL = 0,
	COUNTER_WATCHED_FULL = 1,
	COUNTERS = 2,
};

#endif
