#!/bin/sh
# dpkg calls this with "remove" or "upgrade", rpm with how many versions will be left.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
if command -v systemctl >/dev/null; then
	# Without systemd running, this removes the links that start the services.
	systemctl disable culvert-agent.service culvert-gateway.service || :
fi
if [ -d /run/systemd/system ]; then
	systemctl stop culvert-agent.service culvert-gateway.service || :
fi
