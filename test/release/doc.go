// Package release tests what a release consists of: the packages for Debian and Red Hat are built,
// installed in fresh roots, used and removed; the units are checked with systemd's own tools.
package release
