/*
 * replay.c - gives a fuzzer the files that are named, once each, without
 * libFuzzer: what was found before stays found, with any compiler.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX 1048576	/* octets of a file */

int
main(int argc, char *argv[])
{
	uint8_t *data;
	size_t len;
	FILE *f;
	int i;

	for (i = 1; i < argc; i++) {
		data = malloc(INPUT_MAX);
		f = fopen(argv[i], "rb");
		if (data == NULL || f == NULL) {
			fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
			return 1;
		}
		len = fread(data, 1, INPUT_MAX, f);
		if (ferror(f) || !feof(f)) {
			fprintf(stderr, "%s: not read whole\n", argv[i]);
			return 1;
		}
		fclose(f);
		/* To its size: a sanitizer sees what reads beyond. */
		data = realloc(data, len > 0 ? len : 1);
		if (data == NULL)
			return 1;
		printf("%s\n", argv[i]);
		fflush(stdout);
		LLVMFuzzerTestOneInput(data, len);
		free(data);
	}
	return 0;
}
