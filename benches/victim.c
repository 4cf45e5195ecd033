/* The program that the bench kills: says when it began, then waits. Static, so that little but the
 * exec itself lies between a launch and its first word. Arguments: FIFO [PID file]. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	int64_t word[2] = { getpid(), now.tv_sec * 1000000000LL + now.tv_nsec };
	int fifo = argc > 1 ? open(argv[1], O_WRONLY) : -1;
	if (fifo < 0 || write(fifo, word, sizeof word) != sizeof word)
		return 1;
	if (argc > 2) {
		char text[16];
		int length = snprintf(text, sizeof text, "%d\n", (int)getpid());
		int file = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
		if (file < 0 || write(file, text, length) != length)
			return 2;
		close(file);
	}
	for (;;)
		pause();
}
