// Package ingress starts programs that users put in front of a gateway, each configured as in its
// manual. Most terminate HTTPS and forward the requests. squid and mitmproxy are proxies through
// which a company's machines reach the Internet.
//
// A program's fields are settings that operators change. The zero value is the usual configuration.
package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/proc"
)

// patience is how long a program may take to start or to stop.
const patience = 20 * time.Second

// Config is what every ingress is configured with.
type Config struct {
	Backend   string // host:port of the gateway
	Cert, Key string // PEM files of the certificate for clients
	CA        string // PEM file of the CA of the gateway's certificate, for programs that speak TLS to it
}

// Program is one of this package's types.
type Program interface {
	// command writes the program's configuration into p.Dir, and returns the command that runs it
	// in the foreground.
	command(p params) (*exec.Cmd, error)
}

// params is what a program's configuration is made from.
type params struct {
	Config
	Dir  string // for this program only; every user may enter it
	Port int    // of 127.0.0.1, free for TCP and UDP
}

// Ingress is a running program.
type Ingress struct {
	URL      string // for clients: https://127.0.0.1:port, and http:// for an HTTP proxy
	dir      string
	graceful bool // stop it with SIGTERM
	process  *proc.Process
}

// Start starts a program that ends with the test, and returns when it answers.
func Start(t testing.TB, program Program, config Config) *Ingress {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	i, err := start(ctx, program, config)
	if err != nil {
		t.Fatalf("start %T: %v", program, err)
	}
	t.Cleanup(func() {
		i.close()
		if t.Failed() {
			t.Logf("%T log:\n%s", program, i.Log())
		}
		os.RemoveAll(i.dir)
	})
	return i
}

// start starts a program on a free port. Another process may take that port before the program does:
// then it gets another one.
func start(ctx context.Context, program Program, config Config) (*Ingress, error) {
	for {
		i, err := startOnce(ctx, program, config)
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "ddress already in use") {
			return i, err
		}
	}
}

func startOnce(ctx context.Context, program Program, config Config) (_ *Ingress, err error) {
	p, err := newParams(config)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(p.Dir)
		}
	}()
	cmd, err := program.command(p)
	if err != nil {
		return nil, err
	}
	_, isSquid := program.(Squid)
	contain(cmd, isSquid)
	i := &Ingress{URL: "https://" + p.address(), dir: p.Dir, graceful: isSquid}
	probe := probeTLS
	if isForward(program) {
		i.URL, probe = "http://"+p.address(), probeTCP
	}
	if i.process, err = proc.Start(cmd); err != nil {
		return nil, err
	}
	if err := i.wait(ctx, p.address(), probe); err != nil {
		i.close()
		return nil, fmt.Errorf("%w\n%s", err, i.Log())
	}
	return i, nil
}

// isForward reports whether clients use the program as their HTTP proxy.
func isForward(program Program) bool {
	switch program.(type) {
	case Squid, Mitmproxy:
		return true
	}
	return false
}

// newParams picks a port and creates the folder. Programs started by root switch to users who
// cannot enter the test's own folder.
func newParams(config Config) (p params, err error) {
	p.Config = config
	if p.Port, err = freePort(); err != nil {
		return p, err
	}
	if p.Dir, err = os.MkdirTemp("", "culvert-ingress-"); err != nil {
		return p, err
	}
	return p, os.Chmod(p.Dir, 0o755)
}

// freePort returns a port that is free for TCP and UDP.
func freePort() (int, error) {
	for range 100 {
		ports, err := kafka.FreePorts(1)
		if err != nil {
			return 0, err
		}
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports[0]})
		if err != nil {
			continue
		}
		return ports[0], udp.Close()
	}
	return 0, errors.New("no port is free for both TCP and UDP")
}

func (p params) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port)) }

func (p params) file(name string) string { return filepath.Join(p.Dir, name) }

// write executes a template with data and writes the result to a file.
func (p params) write(name, text string, data any) error {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return err
	}
	return os.WriteFile(p.file(name), []byte(b.String()), 0o644)
}

// join writes a file with the contents of others, one after the other.
func (p params) join(name string, files ...string) error {
	var all []byte
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	return os.WriteFile(p.file(name), all, 0o600)
}

// wait returns when the program accepts connections at address.
func (i *Ingress) wait(ctx context.Context, address string, probe func(context.Context, string) error) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := probe(ctx, address)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-i.process.Done():
			return errors.New("the program has ended")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

func probeTCP(ctx context.Context, address string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// probeTLS does not verify the certificate: the tests' clients do that.
func probeTLS(ctx context.Context, address string) error {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// Log returns the end of the program's output.
func (i *Ingress) Log() string {
	all := i.process.Output().String()
	files, _ := filepath.Glob(filepath.Join(i.dir, "log", "*"))
	for _, file := range files {
		b, _ := os.ReadFile(file)
		all += string(b)
	}
	return all
}

// Reload makes the program reload its configuration (SIGHUP). Open connections stay with its old
// worker, which nginx ends after a while.
func (i *Ingress) Reload() error {
	p, err := os.FindProcess(i.process.Pid())
	if err != nil {
		return err
	}
	return p.Signal(syscall.SIGHUP)
}

// close kills the program, since stopping gracefully can take long. Only squid must stop gracefully
// to remove what it keeps outside of its folder.
func (i *Ingress) close() {
	if i.graceful {
		_ = i.process.Terminate(patience)
		return
	}
	i.process.Kill()
}
