package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/test/netns"
	"github.com/culvert-proxy/culvert/test/proc"
)

// parts are the processes of a run.
type parts struct {
	dir      string // for the certificate
	binaries binaries
	pairs    []pair
	cluster  *proc.Process
	brokers  []string
	wan      *wan     // nil: loopback
	given    sync.Map // the addresses that free has returned
}

// startAll starts the brokers and the rows. The caller calls stop in any case.
func (o *options) startAll(dir string) (p *parts, rows []*row, err error) {
	p = &parts{dir: dir, binaries: o.binaries, pairs: o.pairs}
	if err := p.writeCertificate(); err != nil {
		return p, nil, err
	}
	if p.binaries.path(culvertRow) == "" && slices.ContainsFunc(o.rows, func(name string) bool { return strings.HasPrefix(name, culvertRow+" ") }) {
		if err := p.build(); err != nil {
			return p, nil, err
		}
	}
	if o.wan != nil {
		if p.wan, err = newWAN(*o.wan); err != nil {
			return p, nil, err
		}
	}
	var cluster side
	p.brokers, err = p.startSelf(&cluster, p.wan.server(), "broker")
	if err != nil {
		return p, nil, err
	}
	p.cluster = cluster[0]
	for _, name := range o.rows {
		r, err := p.startRow(name)
		if err != nil {
			return p, rows, err
		}
		rows = append(rows, r)
	}
	return p, rows, nil
}

// stop ends everything.
func (p *parts) stop(rows []*row) {
	for _, r := range rows {
		r.stop()
	}
	if p.cluster != nil {
		p.cluster.Kill()
	}
	p.wan.close()
}

// announce prints the addresses that this process listens on, for its parent.
func announce(out io.Writer, listeners []net.Listener) {
	var addresses []string
	for _, ln := range listeners {
		addresses = append(addresses, ln.Addr().String())
	}
	fmt.Fprintln(out, "listening", strings.Join(addresses, ","))
}

// start starts a process, adds it to a side, and returns the first line with text, in which it
// reported where it listens.
func (p *parts) start(s *side, at *netns.Namespace, text string, args ...string) (string, error) {
	started, err := proc.Start(at.Enter(exec.Command(args[0], args[1:]...)))
	if err != nil {
		return "", err
	}
	*s = append(*s, started)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	line, err := started.Output().WaitLine(ctx, text)
	if err != nil {
		return "", fmt.Errorf("start %s: %w", strings.Join(args, " "), err)
	}
	return line, nil
}

// startSelf starts a part of this binary and returns where it listens.
func (p *parts) startSelf(s *side, at *netns.Namespace, args ...string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	line, err := p.start(s, at, "listening", slices.Concat([]string{self}, args, p.wan.listen(at))...)
	_, addresses, _ := strings.Cut(line, "listening ")
	return strings.Split(addresses, ","), err
}

func (p *parts) file(name string) string { return filepath.Join(p.dir, name) }

// writeCertificate writes a self-signed certificate for loopback.
func (p *parts) writeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.ParseIP(loopback), net.ParseIP(netns.ServerIP)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(p.file("cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(p.file("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
	)
}

// build builds culvert.
func (p *parts) build() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	binary := p.file("culvert")
	p.binaries = append(slices.Clip(p.binaries), named{culvertRow, binary})
	_, err := proc.Run(ctx, exec.Command("go", "build", "-o", binary, "github.com/culvert-proxy/culvert/cmd/culvert"))
	return err
}
