"""The driver of the VM tests: runs scenarios that are written for the NixOS test driver in a Debian
guest, on several kernels.

- archive: an initramfs, written from Python
- debian: the apt of this machine, asked privately: where its mirror is, what a suite holds
- kernels: Debian's kernels, one file each
- image: the guest's root and what is laid over it
- qemu: one virtual machine's process, and whether KVM works
- shell: commands for a guest's shell over one line
- machine: the object `machine` of the NixOS test driver
- scenario: the scenarios, what they may use, and one of them run
- log: what the driver says
- session: one kernel: boots once, runs all its scenarios, keeps what tells of failures
- command: the command line
"""
