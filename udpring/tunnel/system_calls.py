"""Numbers of system calls on x86-64 and on arm64, and the architectures of seccomp filters.

Sources: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux. A call that an
architecture does not have is missing in its table. Calls from number 424 on have one number everywhere.
"""

from __future__ import annotations

import os

from udpring.records import record

__all__ = ["ARCHITECTURES", "NEWEST", "Architecture", "this_architecture"]

NEWEST = 469
"""The newest call that this table was made with (file_setattr, Linux 6.17). Newer ones are unknown here."""

_BOTH = {
    "epoll_pwait2": 441,
    "close_range": 436,
    "faccessat2": 439,
    "clone3": 435,
    "openat2": 437,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "pidfd_send_signal": 424,
}
_X86_64 = """
read 0 write 1 open 2 close 3 stat 4 fstat 5 lstat 6 poll 7 lseek 8 mmap 9 mprotect 10 munmap 11 brk 12
rt_sigaction 13 rt_sigprocmask 14 rt_sigreturn 15 ioctl 16 pread64 17 pwrite64 18 readv 19 writev 20 access 21
select 23 sched_yield 24 mremap 25 madvise 28 dup 32 dup2 33 nanosleep 35 getpid 39 socket 41 connect 42
accept 43 sendto 44 recvfrom 45 sendmsg 46 recvmsg 47 shutdown 48 bind 49 listen 50 getsockname 51
getpeername 52 socketpair 53 setsockopt 54 getsockopt 55 clone 56 fork 57 vfork 58 execve 59 exit 60 wait4 61
kill 62 uname 63 fcntl 72 fsync 74 fdatasync 75 ftruncate 77 getcwd 79 rename 82 mkdir 83 creat 85 unlink 87
getrusage 98 sysinfo 99 gettimeofday 96 ptrace 101 getuid 102 getgid 104 geteuid 107 getegid 108 getppid 110
capget 125 capset 126 rt_sigpending 127 rt_sigtimedwait 128 rt_sigsuspend 130 sigaltstack 131 prctl 157
mount 165 gettid 186 futex 202 sched_getaffinity 204 set_tid_address 218 restart_syscall 219 getdents64 217
clock_gettime 228 clock_getres 229 clock_nanosleep 230 exit_group 231 epoll_wait 232 epoll_ctl 233 tgkill 234
waitid 247 inotify_add_watch 254 inotify_rm_watch 255 openat 257 newfstatat 262 unlinkat 263 renameat 264
pselect6 270 ppoll 271 set_robust_list 273 epoll_pwait 281 timerfd_create 283 timerfd_settime 286 accept4 288
eventfd2 290 epoll_create1 291 dup3 292 pipe2 293 inotify_init1 294 recvmmsg 299 prlimit64 302 sendmmsg 307
setns 308 getcpu 309 process_vm_readv 310 renameat2 316 seccomp 317 getrandom 318 memfd_create 319 bpf 321
execveat 322 membarrier 324 statx 332 rseq 334 mkdirat 258 unshare 272 readlink 89 readlinkat 267 splice 275
flock 73 getpriority 140 setpriority 141 sched_getscheduler 145
sched_setattr 314
"""
_ARM64 = """
getcwd 17 epoll_create1 20 epoll_ctl 21 epoll_pwait 22 dup 23 dup3 24 fcntl 25 inotify_init1 26
inotify_add_watch 27 inotify_rm_watch 28 ioctl 29 mkdirat 34 unlinkat 35 renameat 38 mount 40 ftruncate 46
openat 56 close 57 pipe2 59 getdents64 61 lseek 62 read 63 write 64 readv 65 writev 66 pread64 67
pwrite64 68 pselect6 72 ppoll 73 splice 76 readlinkat 78 newfstatat 79 fstat 80 fsync 82 fdatasync 83
timerfd_create 85 timerfd_settime 86 capget 90 capset 91 exit 93 exit_group 94 waitid 95 set_tid_address 96
unshare 97 futex 98 set_robust_list 99 nanosleep 101 clock_gettime 113 clock_getres 114 clock_nanosleep 115
ptrace 117 sched_getaffinity 123 sched_yield 124 restart_syscall 128 kill 129 tgkill 131 sigaltstack 132
rt_sigsuspend 133 rt_sigaction 134 rt_sigprocmask 135 rt_sigpending 136 rt_sigtimedwait 137 rt_sigreturn 139
uname 160 getrusage 165 prctl 167 getcpu 168 gettimeofday 169 getpid 172 getppid 173 getuid 174 geteuid 175
getgid 176 getegid 177 gettid 178 sysinfo 179 socket 198 socketpair 199 bind 200 listen 201 accept 202
connect 203 getsockname 204 getpeername 205 sendto 206 recvfrom 207 setsockopt 208 getsockopt 209
shutdown 210 sendmsg 211 recvmsg 212 brk 214 munmap 215 mremap 216 clone 220 execve 221 mmap 222
mprotect 226 madvise 233 accept4 242 recvmmsg 243 wait4 260 prlimit64 261 setns 268 sendmmsg 269
process_vm_readv 270 renameat2 276 seccomp 277 getrandom 278 memfd_create 279 bpf 280 execveat 281
membarrier 283 statx 291 rseq 293 eventfd2 19 flock 32 setpriority 140 getpriority 141 sched_setattr 274
sched_getscheduler 120
"""


@record
class Architecture:
    """``machine``: as uname(2) calls it. ``audit``: AUDIT_ARCH_* of linux/audit.h, as filters see it."""

    machine: str
    audit: int
    numbers: dict[str, int]


def _table(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True)) | _BOTH


ARCHITECTURES = (
    Architecture("x86_64", 0xC000003E, _table(_X86_64)),
    Architecture("aarch64", 0xC00000B7, _table(_ARM64)),
)


def this_architecture() -> Architecture | None:
    """The architecture of this process. None: this table does not have it."""
    return next((each for each in ARCHITECTURES if each.machine == os.uname().machine), None)
