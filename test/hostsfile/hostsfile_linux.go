package hostsfile

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// hostsEnv is the variable with the hosts file for the started copy of the test binary.
const hostsEnv = "TEST_HOSTS_FILE"

// Main must be the first call in the TestMain of a test binary that uses Command. In a copy that
// Command has started it executes the program and does not return.
func Main() {
	hosts := os.Getenv(hostsEnv)
	if hosts == "" {
		return
	}
	err := become(hosts, os.Args[1:])
	fmt.Fprintln(os.Stderr, "hostsfile:", err)
	os.Exit(1)
}

func become(hosts string, args []string) error {
	// Otherwise the mount would be visible outside too.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount(hosts, "/etc/hosts", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s over /etc/hosts: %w", hosts, err)
	}
	if err := os.Unsetenv(hostsEnv); err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", args[0], syscall.Exec(args[0], args, os.Environ()))
}

// Command is exec.Command for a program that sees the hosts file as its /etc/hosts.
func Command(hosts, path string, args ...string) *exec.Cmd {
	self, err := os.Executable()
	cmd := exec.Command(self, append([]string{path}, args...)...)
	cmd.Err = err
	cmd.Env = append(os.Environ(), hostsEnv+"="+hosts)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// Available returns nil, or why Command will not work here.
func Available() error {
	out, err := Command("/etc/hosts", "/bin/true").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w (%w %s)", errUnsupported, err, out)
	}
	return nil
}
