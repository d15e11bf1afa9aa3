#!/bin/sh
# dpkg calls this with "remove", and with "purge" if settings are to go too; rpm with how many
# versions are left.
set -e
if [ "$1" = purge ] || [ "$1" = 0 ]; then
	rm -rf /var/lib/culvert-agent /var/lib/private/culvert-agent
fi
if [ "$1" = purge ]; then
	rm -rf /etc/culvert
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
