package ingress

import (
	"os"
	"os/exec"
	"syscall"
)

// nobody is a user without rights on every Linux.
const nobody = 65534

// contain makes the program the first process of its own process namespace. When it is killed, or
// the test binary dies, the kernel ends all its children. A program that changes its user would
// undo that. So under root it starts as nobody and has no user to change.
func contain(cmd *exec.Cmd, changesUser bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if os.Geteuid() == 0 && changesUser {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	}
}
