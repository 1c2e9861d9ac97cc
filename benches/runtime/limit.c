/* The limit of the runtime benchmark: what the kernel alone takes for the container that `runc spec`
 * describes. Five namespaces, its mounts, its devices, pivot_root, exec; no checks, no
 * configuration, no cgroup, no hooks, nothing that can be undone.
 *
 *   limit run ROOTFS PROGRAM      runs it and waits for its end
 *   limit rss PROGRAM ARGS...     runs a program and prints the largest resident set, in KiB, of it
 *                                 and of what it waited for
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		_exit(1);
	}
}

static void attach(const char *source, const char *at, const char *type, unsigned long flags,
		   const char *data)
{
	mkdir(at, 0755);
	must(mount(source, at, type, flags, data), at);
}

static void device(const char *at, unsigned major, unsigned minor)
{
	must(mknod(at, S_IFCHR | 0666, makedev(major, minor)), at);
}

static void inside(const char *rootfs, char *program)
{
	const unsigned long quiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;

	must(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), "/");
	must(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL), rootfs);
	must(chdir(rootfs), rootfs);
	attach("proc", "proc", "proc", 0, NULL);
	attach("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	attach("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
	       "newinstance,ptmxmode=0666,mode=0620,gid=5");
	attach("shm", "dev/shm", "tmpfs", quiet, "mode=1777,size=65536k");
	attach("mqueue", "dev/mqueue", "mqueue", quiet, NULL);
	attach("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL);
	device("dev/null", 1, 3);
	device("dev/zero", 1, 5);
	device("dev/full", 1, 7);
	device("dev/random", 1, 8);
	device("dev/urandom", 1, 9);
	device("dev/tty", 5, 0);
	must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	must(umount2(".", MNT_DETACH), "umount");
	must(chdir("/"), "/");
	must(sethostname("runc", 4), "sethostname");
	char *args[] = {program, NULL}, *environment[] = {"PATH=/bin", NULL};
	must(execve(program, args, environment), program);
}

int main(int argc, char **argv)
{
	int status = 0;

	if (argc >= 4 && strcmp(argv[1], "run") == 0) {
		unsigned long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC |
				      CLONE_NEWNET | SIGCHLD;
		int pid = (int)syscall(SYS_clone, flags, 0, 0, 0, 0);

		must(pid, "clone");
		if (pid == 0)
			inside(argv[2], argv[3]);
		must(waitpid(pid, &status, 0), "waitpid");
		return WEXITSTATUS(status);
	}
	if (argc >= 3 && strcmp(argv[1], "rss") == 0) {
		struct rusage usage;
		int pid = vfork();

		must(pid, "vfork");
		if (pid == 0) {
			execvp(argv[2], argv + 2);
			_exit(127);
		}
		must(wait4(pid, &status, 0, &usage), "wait4");
		printf("%ld\n", usage.ru_maxrss);
		return WEXITSTATUS(status);
	}
	fprintf(stderr, "usage: limit run ROOTFS PROGRAM | limit rss PROGRAM ARGS...\n");
	return 2;
}
