//go:build !unix

package proc

import "os/exec"

func setGroup(*exec.Cmd) {}

func killGroup(cmd *exec.Cmd) { _ = cmd.Process.Kill() }

func terminate(cmd *exec.Cmd) { _ = cmd.Process.Kill() }

func quit(*exec.Cmd) {}
