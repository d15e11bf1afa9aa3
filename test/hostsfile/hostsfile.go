// Package hostsfile runs programs with their own /etc/hosts. The names that the brokers advertise
// resolve for these programs, as they do inside a platform, and not for others on the machine.
//
// The test binary starts itself again in its own mount namespace, mounts another file over
// /etc/hosts there, and executes the program. That needs root, or a kernel that lets every user
// create namespaces.
package hostsfile

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// errUnsupported includes the remedy.
var errUnsupported = errors.New("cannot give a program its own /etc/hosts: run the tests on Linux as root, or allow namespaces to every user (sysctl kernel.unprivileged_userns_clone=1, and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)")

// Write writes a hosts file that maps names to addresses.
func Write(path string, names map[string]string) error {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&b, "%s %s\n", names[name], name)
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
