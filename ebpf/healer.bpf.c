/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The kernel side: why a watched process ended, and that a wanted program was started.
 *
 * Four BTF tracepoints. `watched` holds the thread groups that healer wants to know about. What
 * happens to them is written into their entry, where healer finds it once their pidfd is readable,
 * which is always later: no queue lies between, so none can overflow. The ring `execs` carries only
 * starts of the files in `wanted`. For any other process an exit, a signal or an exec costs one
 * look-up and wakes nobody.
 *
 * One object runs on Linux 5.8 and newer: the structures below name just the fields used, and the
 * loader moves each access to where the running kernel has it (CO-RE). No header but our own is
 * needed. Both sides' view of the entries is healer.h.
 */
#include "healer.h"

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define CORE __attribute__((preserve_access_index))

/* Helpers by their stable numbers, include/uapi/linux/bpf.h. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value,
				   __u64 flags) = (void *)2;
static __u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static __u64 (*bpf_get_current_uid_gid)(void) = (void *)15;
static __u64 (*bpf_get_current_task)(void) = (void *)35;
static long (*bpf_probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)113;
static long (*bpf_probe_read_kernel_str)(void *to, __u32 size, const void *from) = (void *)115;
static __u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;
static void *(*bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *record, __u64 flags) = (void *)132;

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_NOEXIST 1
#define E2BIG 7

/* Kernel structures, as far as they are used. */
struct super_block {
	__u32 s_dev;
} CORE;
struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
} CORE;
struct file {
	struct inode *f_inode;
} CORE;
struct linux_binprm {
	struct file *file;
} CORE;
struct ns_common {
	__u32 inum;
} CORE;
struct pid_namespace {
	struct ns_common ns;
} CORE;
struct upid { /* No CORE: read whole, and alike on all kernels since 4.15. */
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	__u32 level;
	struct upid numbers[1];
} CORE;
typedef struct {
	int counter;
} CORE atomic_t;
struct kernfs_node {
	const char *name;
	__u64 id;
} CORE;
struct cgroup;
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} CORE;
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
} CORE;
struct css_set {
	struct cgroup_subsys_state *subsys[1];
} CORE;
enum cgroup_subsys_id {
	memory_cgrp_id = 4, /* Any number: the running kernel's is taken. */
};
struct mm_struct;
struct signal_struct {
	atomic_t live;
	int group_exit_code;
	__u32 flags;
	__u64 utime;
	__u64 stime;
	unsigned long long sum_sched_runtime;
	unsigned long maxrss;
	struct mm_struct *oom_mm;
} CORE;
struct sched_entity {
	__u64 sum_exec_runtime;
} CORE;
struct task_struct {
	int exit_code;
	int tgid;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	__u64 utime;
	__u64 stime;
	__u64 start_boottime;
	struct sched_entity se;
	char comm[HEALER_COMM_LEN];
	struct signal_struct *signal;
	struct css_set *cgroups;
} CORE;
struct kernel_siginfo {
	int si_code;
} CORE;

/* The group is ending, or (a flag of its own before Linux 5.18) dumps core first. */
#define SIGNAL_GROUP_EXIT 4
#define SIGNAL_GROUP_COREDUMP 8
/* How far up a cgroup's path is told. */
#define CGROUP_DEPTH 16
/* The deepest nesting of PID namespaces. */
#define MAX_PID_NS_LEVEL 32
/* The initial PID namespace's inode number, include/linux/proc_ns.h. */
#define PROC_PID_INIT_INO 0xEFFFFFFCU
/* /proc counts 100 ticks a second, whatever the kernel's own rate. */
#define NS_PER_TICK 10000000ULL

/*
 * Set by the loader: healer's PID namespace, how its time namespace shifts boot time, and the root
 * of its cgroup namespace, 0 for the root of all.
 */
const volatile __u32 own_pid_namespace = PROC_PID_INIT_INO;
const volatile __u64 boottime_offset = 0;
const volatile __u64 own_cgroup_root = 0;
/* What a new entry of `oom_cgroups` begins as; too large for the stack. */
const struct cgroup_path no_path = {};

/* Maps, declared for the loader by their BTF. It may change max_entries. */
struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	struct instance *key;
	struct watched *value;
	int (*max_entries)[4096];
} watched SEC(".maps");

/* By the cgroup's ID. The longest unused make room for new ones. */
struct {
	int (*type)[BPF_MAP_TYPE_LRU_HASH];
	__u64 *key;
	struct cgroup_path *value;
	int (*max_entries)[64];
} oom_cgroups SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	struct file_key *key;
	__u32 *value;
	int (*max_entries)[4096];
} wanted SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_RINGBUF];
	int (*max_entries)[65536];
} execs SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	__u32 *key;
	__u64 *value;
	int (*max_entries)[COUNTERS];
} counters SEC(".maps");

/* Reads a field through a pointer that the verifier does not know. */
#define READ(to, from) bpf_probe_read_kernel(&(to), sizeof(to), &(from))

INLINE void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);
	if (value)
		__sync_fetch_and_add(value, 1);
}

/*
 * The PID of a thread group's leader in healer's PID namespace; 0 for a process outside of it. With
 * `innermost` also 0 for one in a namespace below healer's.
 */
INLINE __u32 pid_of(struct task_struct *leader, int innermost)
{
	struct upid number = {};
	struct pid *pid = 0;
	__u32 level = 0;

	READ(pid, leader->thread_pid);
	READ(level, pid->level);
	for (__u32 at = 0; at < MAX_PID_NS_LEVEL && at <= level; at++) {
		__u32 inum = 0;

		READ(number, *((struct upid *)&pid->numbers + at));
		READ(inum, number.ns->ns.inum);
		if (inum == own_pid_namespace)
			return innermost && at != level ? 0 : number.nr;
	}
	return 0;
}

INLINE struct instance key_of(__u32 pid, __u64 started)
{
	struct instance key = {};

	key.pid = pid;
	key.start_ticks = (started + boottime_offset) / NS_PER_TICK;
	return key;
}

/* The entry of a task's thread group; by plain loads, as the verifier knows the pointer. */
INLINE struct watched *find(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	/* Every process is in the initial namespace, and this is its number there. */
	__u32 pid = own_pid_namespace == PROC_PID_INIT_INO ? (__u32)leader->tgid :
							     pid_of(leader, 0);
	struct instance key = key_of(pid, leader->start_boottime);

	return bpf_map_lookup_elem(&watched, &key);
}

/* Notes the path of a cgroup, from its own name upwards. */
INLINE void note_path(struct cgroup *cgroup, __u64 id)
{
	struct cgroup_path *path;
	__u32 whole = 0;
	/* As wide as a register: older verifiers lose a bound when it is narrowed. */
	__u64 at = 0;

	bpf_map_update_elem(&oom_cgroups, &id, &no_path, BPF_NOEXIST);
	path = bpf_map_lookup_elem(&oom_cgroups, &id);
	if (!path)
		return;
	/* Linux 5.10 refuses a loop whose way back is not a jump, which clang makes of this one. */
#pragma clang loop unroll(full)
	for (int step = 0; step < CGROUP_DEPTH; step++) {
		struct cgroup_subsys_state *parent = 0;
		struct kernfs_node *node = 0;
		const char *name = 0;
		__u64 node_id = 0;
		long length;

		READ(node, cgroup->kn);
		READ(node_id, node->id);
		READ(parent, cgroup->self.parent);
		if (node_id == own_cgroup_root || !parent) {
			whole = node_id == own_cgroup_root || own_cgroup_root == 0;
			break;
		}
		if (at >= HEALER_NAME_LEN)
			break;
		READ(name, node->name);
		length = bpf_probe_read_kernel_str(path->names + at, HEALER_NAME_LEN, name);
		if (length <= 0)
			break;
		at += length & (HEALER_NAMES_LEN - 1);
		READ(cgroup, parent->cgroup);
	}
	/* Of one cgroup all note the same. */
	path->length = at;
	path->whole = whole;
}

INLINE void mark_oom(struct watched *entry, struct task_struct *task)
{
	struct cgroup_subsys_state *state = 0;
	struct css_set *set = 0;
	struct cgroup *cgroup = 0;
	struct kernfs_node *node = 0;
	__u64 id = 0;

	entry->oom = 1;
	/* A kernel built without memory cgroups has no such number. */
	if (!__builtin_preserve_enum_value(*(enum cgroup_subsys_id *)memory_cgrp_id, 0))
		return;
	READ(set, task->cgroups);
	READ(state, *((struct cgroup_subsys_state **)&set->subsys +
		      __builtin_preserve_enum_value(*(enum cgroup_subsys_id *)memory_cgrp_id, 1)));
	READ(cgroup, state->cgroup);
	READ(node, cgroup->kn);
	READ(id, node->id);
	entry->oom_cgroup = id;
	note_path(cgroup, id);
}

/* sched_process_exec(struct task_struct *task, pid_t old_pid, struct linux_binprm *binprm) */
SEC("tp_btf/sched_process_exec")
int on_exec(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct linux_binprm *binprm = (void *)ctx[2];
	struct inode *inode = binprm->file->f_inode;
	struct file_key file = { .ino = inode->i_ino, .dev = inode->i_sb->s_dev };
	struct watched nothing = {};
	struct instance *record;
	struct instance key;

	if (!bpf_map_lookup_elem(&wanted, &file))
		return 0;
	/* The thread that execs is its group's leader by now. */
	key = key_of(pid_of(task, 1), task->start_boottime);
	if (key.pid == 0)
		return 0;
	/* healer knows it already: it started it, or saw an earlier exec. */
	if (bpf_map_lookup_elem(&watched, &key))
		return 0;
	/* First the record: an entry that healer is never told of would stay for ever. */
	record = bpf_ringbuf_reserve(&execs, sizeof(*record), 0);
	if (!record) {
		count(COUNTER_RING_FULL);
		return 0;
	}
	if (bpf_map_update_elem(&watched, &key, &nothing, BPF_NOEXIST) == -E2BIG)
		count(COUNTER_WATCHED_FULL);
	*record = key;
	bpf_ringbuf_submit(record, 0);
	return 0;
}

#define BIT(signal) (1ULL << (signal))
/* Signals that by default end no process: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH; and the
 * two that the C library keeps for itself. */
#define HARMLESS                                                                                \
	(BIT(17) | BIT(18) | BIT(19) | BIT(20) | BIT(21) | BIT(22) | BIT(23) | BIT(28) | BIT(32) | \
	 BIT(33))
/* HUP, INT, QUIT, TERM: how a process is asked to end. */
#define ASKING (BIT(1) | BIT(2) | BIT(3) | BIT(15))

/* `result` of signal_generate: sent, or sent without its siginfo. The others were not sent. */
#define TRACE_SIGNAL_DELIVERED 0
#define TRACE_SIGNAL_LOSE_INFO 4

/* signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group,
 *                 int result) */
SEC("tp_btf/signal_generate")
int on_signal(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[2];
	__u32 signal = ctx[0];
	int result = ctx[4];
	struct task_struct *current = (void *)bpf_get_current_task();
	struct task_struct *leader = 0;
	struct watched *entry;
	struct sent *sent;
	__u64 info = 0;
	__u32 flags;

	/* There are 64, and the last one is like those before. */
	if (signal < 64 && (HARMLESS & BIT(signal)))
		return 0;
	if (result != TRACE_SIGNAL_DELIVERED && result != TRACE_SIGNAL_LOSE_INFO)
		return 0;
	entry = find(task);
	if (!entry)
		return 0;
	/* What comes later than the end, or than what caused it, caused nothing. */
	if (entry->ended_at || entry->fatal)
		return 0;
	/*
	 * Where the group is ending, it is by this signal, which was acted upon before it is traced
	 * here, or by something else: its own exit, or a signal whose core is being written.
	 */
	flags = task->signal->flags;
	if (flags & (SIGNAL_GROUP_EXIT | SIGNAL_GROUP_COREDUMP)) {
		if ((task->signal->group_exit_code & 0x7f) != signal)
			return 0;
		entry->fatal = signal;
	}
	/* Senders hold the target's lock, so that nobody else writes here meanwhile. */
	sent = signal < 64 && (ASKING & BIT(signal)) ? &entry->asked : &entry->other;
	sent->at = bpf_ktime_get_boot_ns();
	sent->signal = signal;
	/* As a number: the verifier takes the pointer for never NULL, and 0 and 1 mean something. */
	bpf_probe_read_kernel(&info, sizeof(info), &ctx[1]);
	sent->origin = info <= ORIGIN_PRIV - 1 ? info + 1 : ORIGIN_INFO;
	sent->code = 0;
	if (sent->origin == ORIGIN_INFO)
		READ(sent->code, ((struct kernel_siginfo *)info)->si_code);
	READ(leader, current->group_leader);
	if (own_pid_namespace == PROC_PID_INIT_INO)
		sent->pid = bpf_get_current_pid_tgid() >> 32;
	else
		sent->pid = pid_of(leader, 0);
	sent->uid = bpf_get_current_uid_gid();
	/* The process's, as its PID is, whatever its threads call themselves. */
	READ(sent->comm, leader->comm);
	return 0;
}

/* mark_victim(struct task_struct *task, …); older kernels pass a PID there. */
SEC("tp_btf/mark_victim")
int on_oom(__u64 *ctx)
{
	struct task_struct *leader = 0;
	struct task_struct *task = 0;
	struct watched *entry;
	struct instance key;
	__u64 started = 0;
	__u32 pid = 0;

	/* As a number: what the verifier knows of it differs between kernels. */
	bpf_probe_read_kernel(&task, sizeof(task), &ctx[0]);
	if ((__u64)task >> 32 == 0)
		return 0;
	READ(leader, task->group_leader);
	READ(started, leader->start_boottime);
	if (own_pid_namespace == PROC_PID_INIT_INO)
		READ(pid, leader->tgid);
	else
		pid = pid_of(leader, 0);
	key = key_of(pid, started);
	entry = bpf_map_lookup_elem(&watched, &key);
	if (entry)
		mark_oom(entry, task);
	return 0;
}

/* sched_process_exit(struct task_struct *task, …) */
SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct signal_struct *signal = task->signal;
	struct task_struct *leader;
	struct watched *entry;

	/* Threads that end at the same time may each see 0: they write the same. */
	if (signal->live.counter != 0)
		return 0;
	entry = find(task);
	if (!entry)
		return 0;
	leader = task->group_leader;
	entry->started_at = leader->start_boottime;
	entry->status = (signal->flags & SIGNAL_GROUP_EXIT) ? signal->group_exit_code :
							      leader->exit_code;
	/* Those of threads that are gone, and of this one; a leader stays until the last is gone. */
	entry->run_ns = signal->sum_sched_runtime + task->se.sum_exec_runtime;
	entry->user_ns = signal->utime + task->utime;
	entry->system_ns = signal->stime + task->stime;
	if (leader != task) {
		entry->run_ns += leader->se.sum_exec_runtime;
		entry->user_ns += leader->utime;
		entry->system_ns += leader->stime;
	}
	entry->peak_rss_pages = signal->maxrss;
	if (signal->oom_mm)
		mark_oom(entry, task);
	entry->ended_at = bpf_ktime_get_boot_ns();
	return 0;
}

/* Some helpers are open to programs under the GPL only. */
char _license[] SEC("license") = "Dual MIT/GPL";
