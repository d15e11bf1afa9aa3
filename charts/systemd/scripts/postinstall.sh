#!/bin/sh
# Nothing is enabled or started: there are no settings yet. After an upgrade, what runs is started
# again with the new binary. dpkg calls this with "configure" and the old version, rpm with how many
# versions are installed then.
set -e
[ -d /run/systemd/system ] || exit 0 # a container, or the image of a machine
systemctl daemon-reload
if { [ "$1" = configure ] && [ -n "$2" ]; } || [ "$1" = 2 ]; then
	systemctl try-restart culvert-agent.service culvert-gateway.service || :
fi
