/*
 * Has liblxc read a config, and prints what it holds afterwards.
 *
 *   readback CONFIG KEY...   for each key: the length in bytes, a newline, the value, a
 *                            newline. Exit 1: liblxc refused the config.
 */
#include <lxc/lxccontainer.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	struct lxc_container *c;

	if (argc < 2)
		return 2;
	c = lxc_container_new("readback", "/nonexistent");
	if (!c)
		return 2;
	c->clear_config(c);
	if (!c->load_config(c, argv[1]))
		return 1;
	for (int i = 2; i < argc; i++) {
		int len = c->get_config_item(c, argv[i], NULL, 0);
		char *value;

		if (len < 0)
			return 3;
		value = calloc(1, (size_t)len + 1);
		if (!value || c->get_config_item(c, argv[i], value, len + 1) != len)
			return 3;
		printf("%d\n", len);
		fwrite(value, 1, (size_t)len, stdout);
		putchar('\n');
		free(value);
	}
	lxc_container_put(c);
	return 0;
}
