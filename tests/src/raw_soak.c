/* Many container lives in a row, without a runtime and as fast as they go.
 *
 *   raw_soak DOCKER PREFIX FIRST COUNT EVERY
 *
 * Life number n (from FIRST on) is the cgroup DOCKER/<PREFIX><n as 16 hex digits> on cgroup v2: made,
 * init cloned into it in a pid namespace of its own, which executes and exits with n % 100, removed.
 * In every EVERY-th life a process is brought in while init runs, executes and exits with 7.
 *
 * Exit code: 0, or 120 and up where something failed, which is told on standard error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char self[4096];

static _Noreturn void die(const char *what, int code)
{
	fprintf(stderr, "raw_soak: %s: %s\n", what, strerror(errno));
	_exit(code);
}

static pid_t clone_into(uint64_t flags, int cgroup)
{
	struct clone_args args = { 0 };
	args.flags = CLONE_INTO_CGROUP | flags;
	args.exit_signal = SIGCHLD;
	args.cgroup = cgroup;
	pid_t pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0)
		die("clone3", 122);
	return pid;
}

static _Noreturn void become(const char *code, const char *ready, const char *hold)
{
	char *argv[] = { self, "-", (char *)code, (char *)ready, (char *)hold, NULL };
	execv(self, argv);
	die("execv", 127);
}

/* What runs inside: says that it is there, waits until it may end. */
static _Noreturn void inside(char **argv)
{
	int ready = atoi(argv[3]), hold = atoi(argv[4]);
	char byte = 0;
	if (ready >= 0 && write(ready, &byte, 1) != 1)
		die("ready", 124);
	if (hold >= 0)
		while (read(hold, &byte, 1) > 0)
			;
	_exit(atoi(argv[2]));
}

static void reap(pid_t pid, int code)
{
	int status;
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != code)
		die("a process did not end as told", 125);
}

static void session(pid_t init, int cgroup, int own)
{
	int target = syscall(SYS_pidfd_open, init, 0);
	if (target < 0 || setns(target, CLONE_NEWPID) != 0)
		die("setns", 126);
	pid_t pid = clone_into(0, cgroup);
	if (pid == 0)
		become("7", "-1", "-1");
	reap(pid, 7);
	if (setns(own, CLONE_NEWPID) != 0)
		die("setns back", 126);
	close(target);
}

static void life(const char *dir, unsigned long n, int with_session, int own)
{
	if (mkdir(dir, 0755) != 0)
		die(dir, 121);
	int cgroup = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup < 0)
		die(dir, 121);
	char code[8];
	snprintf(code, sizeof code, "%lu", n % 100);
	if (with_session) {
		int ready[2], hold[2];
		if (pipe(ready) != 0 || pipe(hold) != 0)
			die("pipe", 123);
		pid_t init = clone_into(CLONE_NEWPID, cgroup);
		if (init == 0) {
			char there[8], held[8];
			close(hold[1]);
			snprintf(there, sizeof there, "%d", ready[1]);
			snprintf(held, sizeof held, "%d", hold[0]);
			become(code, there, held);
		}
		close(ready[1]);
		close(hold[0]);
		char byte;
		if (read(ready[0], &byte, 1) != 1)
			die("init did not come up", 124);
		close(ready[0]);
		int flags = fcntl(hold[1], F_GETFD);
		fcntl(hold[1], F_SETFD, flags | FD_CLOEXEC);
		session(init, cgroup, own);
		close(hold[1]);
		reap(init, n % 100);
	} else {
		pid_t init = clone_into(CLONE_NEWPID, cgroup);
		if (init == 0)
			become(code, "-1", "-1");
		reap(init, n % 100);
	}
	close(cgroup);
	/* The kernel may hold the last process's remains for a moment. */
	for (int tries = 0; rmdir(dir) != 0; tries++) {
		if (errno != EBUSY || tries > 100000)
			die(dir, 121);
		sched_yield();
	}
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "-") == 0)
		inside(argv);
	if (argc != 6)
		die("usage", 120);
	int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (own < 0)
		die("own pid namespace", 126);
	if (readlink("/proc/self/exe", self, sizeof self - 1) <= 0)
		die("own program", 126);
	unsigned long first = strtoul(argv[3], NULL, 10), count = strtoul(argv[4], NULL, 10);
	unsigned long every = strtoul(argv[5], NULL, 10);
	char dir[4096];
	for (unsigned long n = first; n < first + count; n++) {
		snprintf(dir, sizeof dir, "%s/%s%016lx", argv[1], argv[2], n);
		life(dir, n, every != 0 && n % every == 0, own);
	}
	return 0;
}
