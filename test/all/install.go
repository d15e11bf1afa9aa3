package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

// need is a program that the tests run, and its Debian packages.
type need struct {
	program  string
	packages []string
	probe    []string // a command that fails if the installation is incomplete
}

var needs = []need{
	{program: "gcc", packages: []string{"gcc", "libc6-dev"}}, // for the race detector
	{program: "java", packages: []string{"openjdk-17-jdk-headless"}},
	{program: "mvn", packages: []string{"maven"}},
	{program: "python3", packages: []string{"python3-venv"}, probe: []string{"python3", "-c", "import ensurepip"}},
	{program: "node", packages: []string{"nodejs"}},
	{program: "npm", packages: []string{"npm"}},
	{program: "chromium", packages: []string{"chromium"}}, // for the live page
	{program: "kcat", packages: []string{"kcat"}},
	{program: "openssl", packages: []string{"openssl"}},
	{program: "ip", packages: []string{"iproute2"}}, // and ss
	{program: "iptables", packages: []string{"iptables"}},
	{program: "conntrack", packages: []string{"conntrack"}},
	{program: "nginx", packages: []string{"nginx-light"}},
	{program: "haproxy", packages: []string{"haproxy"}},
	{program: "squid", packages: []string{"squid"}},
	{program: "apache2", packages: []string{"apache2-bin"}},
	{program: "nghttpx", packages: []string{"nghttp2-proxy"}},
	{program: "h2o", packages: []string{"h2o"}},
	{program: "lighttpd", packages: []string{"lighttpd", "lighttpd-mod-openssl"}},
	{program: "prometheus", packages: []string{"prometheus"}}, // and promtool
	{program: "rsyslogd", packages: []string{"rsyslog", "rsyslog-kafka"}, probe: []string{"dpkg", "-s", "rsyslog-kafka"}},
	{program: "tmux", packages: []string{"tmux"}},
	{program: "zsh", packages: []string{"zsh"}},
	{program: "fish", packages: []string{"fish"}},
	{program: "groff", packages: []string{"groff"}}, // for the manual pages
	{program: "dpkg", packages: []string{"dpkg"}},   // for our packages: a Debian has it, others may have either
	{program: "rpm", packages: []string{"rpm"}},
	{program: "systemd-analyze", packages: []string{"systemd"}}, // which need not run
	{program: "strace", packages: []string{"strace"}},
	{program: "buildah", packages: []string{"buildah"}},
	{program: "busybox", packages: []string{"busybox-static"}}, // static, for images have no libraries
}

// install installs missing programs if it can: as root, with apt. Otherwise it prints what is
// missing, and the tests that need it skip.
func install(ctx context.Context) error {
	var programs, packages []string
	for _, n := range needs {
		if n.missing(ctx) {
			programs = append(programs, n.program)
			packages = append(packages, n.packages...)
		}
	}
	if len(programs) == 0 {
		return nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		cache.Say("missing: %s (Debian: apt-get install %s); what needs them is left out", strings.Join(programs, ", "), strings.Join(packages, " "))
		return nil
	}
	cache.Say("installing with apt-get: %s", strings.Join(packages, " "))
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, fmt.Errorf("apt-get not done within ten minutes"))
	defer cancel()
	return withoutServices(func() error { return installPackages(ctx, apt, packages) })
}

func installPackages(ctx context.Context, apt string, packages []string) error {
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-qq", "-y", "--no-install-recommends"}, packages...)} {
		cmd := exec.Command(apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if _, err := proc.Run(ctx, cmd); err != nil {
			return err
		}
	}
	return nil
}

// policy is the file in which Debian looks up whether a package may start its service. Without it
// nginx, HAProxy and squid start when they are installed.
const policy = "/usr/sbin/policy-rc.d"

// withoutServices runs install and keeps Debian from starting services meanwhile. It leaves a
// policy that exists already as it is.
func withoutServices(install func() error) error {
	f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return install()
	}
	if err != nil {
		return err
	}
	defer os.Remove(policy)
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return install()
}

func (n need) missing(ctx context.Context) bool {
	if _, err := exec.LookPath(n.program); err != nil {
		return true
	}
	if n.probe == nil {
		return false
	}
	_, err := proc.Run(ctx, exec.Command(n.probe[0], n.probe[1:]...))
	return err != nil
}
