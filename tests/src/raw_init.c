/* Puts a process into cgroups the way container runtimes do, without a runtime.
 *
 *   raw_init joined DIR... -- ACTION   like runc: a process joins every cgroup, then clones init into
 *                                      a new pid namespace as its own sibling, and leaves
 *   raw_init into   DIR... -- ACTION   like crun on cgroup v2: init is cloned into the last DIR, and
 *                                      no process ever moves
 * ACTION is a command line, or `stay CODE`: init never executes anything. It forks one child that
 * does neither, waits for standard input to end and exits with CODE.
 *
 * Exit code: init's own, 128 + signal where a signal ended it; 120 and up are errors of this program.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void die(const char *what, int code)
{
	fprintf(stderr, "raw_init: %s: %s\n", what, strerror(errno));
	_exit(code);
}

static void join(const char *dir)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/cgroup.procs", dir);
	int fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1)
		die(path, 121);
	close(fd);
}

static pid_t clone_init(uint64_t flags, int cgroup)
{
	struct clone_args args = { 0 };
	args.flags = CLONE_NEWPID | flags;
	args.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD;
	args.cgroup = cgroup;
	return syscall(SYS_clone3, &args, sizeof args);
}

static _Noreturn void act(char **action)
{
	if (strcmp(action[0], "stay") != 0) {
		execv(action[0], action);
		die(action[0], 127);
	}
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	char byte;
	waitpid(child, NULL, 0);
	while (read(0, &byte, 1) > 0)
		;
	_exit(action[1] ? atoi(action[1]) : 0);
}

int main(int argc, char **argv)
{
	int end = 2;
	while (end < argc && strcmp(argv[end], "--") != 0)
		end++;
	if (end < 3 || end + 1 >= argc)
		die("usage", 120);
	char **action = argv + end + 1;
	if (strcmp(argv[1], "into") == 0) {
		int dir = open(argv[end - 1], O_RDONLY | O_DIRECTORY);
		if (dir < 0)
			die(argv[end - 1], 121);
		pid_t init = clone_init(CLONE_INTO_CGROUP, dir);
		if (init < 0)
			die("clone3 into a cgroup", 122);
		if (init == 0)
			act(action);
	} else {
		pid_t middle = fork();
		if (middle < 0)
			die("fork", 122);
		if (middle == 0) {
			for (int i = 2; i < end; i++)
				join(argv[i]);
			pid_t init = clone_init(CLONE_PARENT, 0);
			if (init < 0)
				die("clone3", 122);
			if (init == 0)
				act(action);
			_exit(0);
		}
		int status;
		if (waitpid(middle, &status, 0) != middle || status != 0)
			die("the joining process failed", 123);
	}
	int status;
	if (wait(&status) < 0)
		die("wait", 124);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
