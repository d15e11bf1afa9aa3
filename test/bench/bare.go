package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// bareBuffer is what a direction takes if there is no [tunnel.Bulk], as culvert's does.
const bareBuffer = 64 << 10

// runBareAgent is an agent that only copies: one port per address in -to.
func runBareAgent(out io.Writer, args []string) error {
	flags := flag.NewFlagSet("bare-agent", flag.ContinueOnError)
	gateway := flags.String("gateway", "", "host:port of the bare gateway")
	transport := flags.String("transport", "", "h3, ws or h2")
	ca := flags.String("ca", "", "file with the gateway's certificate")
	to := flags.String("to", "", "addresses behind the gateway")
	listen := listenFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	d := &tunnel.Dialer{URL: &url.URL{Scheme: "https", Host: *gateway}, Transport: *transport, TLS: &tls.Config{RootCAs: roots}}
	if listen.cubic {
		d.DialContext = dialCubic
	}
	defer d.Close()
	targets := strings.Split(*to, ",")
	listeners, err := listen.all(len(targets))
	if err != nil {
		return err
	}
	announce(out, listeners)
	var over sync.WaitGroup
	for i, ln := range listeners {
		over.Go(func() {
			acceptAll(ln, func(c net.Conn) error { return bareStream(d, c, targets[i]) })
		})
	}
	over.Wait()
	return nil
}

// dialCubic dials with CUBIC and hides the socket, on which tunnel would set BBR.
func dialCubic(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Control: cubic}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return plainConn{c}, nil
}

// plainConn and plainListener hide the sockets, so that tunnel cannot tune them.
type plainConn struct{ net.Conn }

type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return plainConn{c}, nil
}

func bareStream(d *tunnel.Dialer, c net.Conn, target string) error {
	defer c.Close()
	stream, err := d.Dial(context.Background(), tunnel.Open{Target: target}, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bare agent:", err)
		return err
	}
	defer stream.Close()
	return copyBoth(c, stream)
}

// runBareGateway is a gateway that only copies, to any target.
func runBareGateway(out io.Writer, args []string) error {
	flags := flag.NewFlagSet("bare-gateway", flag.ContinueOnError)
	cert := flags.String("cert", "", "file with the certificate")
	key := flags.String("key", "", "file with its key")
	listen := listenFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	listeners, err := listen.all(1)
	if err != nil {
		return err
	}
	announce(out, listeners)
	tcp := listeners[0]
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		return err
	}
	if listen.cubic {
		tcp = plainListener{tcp}
	}
	s := &tunnel.Server{Serve: bareServe, TLS: &tls.Config{Certificates: []tls.Certificate{pair}}}
	return s.Run(context.Background(), tcp, udp)
}

func bareServe(_ context.Context, stream *tunnel.Conn, o *tunnel.Open, _ *tunnel.Peer) {
	c, err := net.Dial("tcp", o.Target)
	if err != nil {
		stream.Reset(&tunnel.Error{Code: tunnel.CodeDial, Message: err.Error()})
		return
	}
	defer c.Close()
	copyBoth(c, stream)
}

// halfCloser is a TCP connection or a stream of the tunnel.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

func copyBoth(a net.Conn, b halfCloser) error {
	up := make(chan error, 1)
	go func() { up <- copyOne(b, a) }()
	down := copyOne(a.(halfCloser), b)
	return errors.Join(down, <-up)
}

// copyOne copies until from ends. An error ends both.
func copyOne(to halfCloser, from net.Conn) error {
	err := copyBulk(to, from)
	if err != nil {
		to.Close()
		from.Close()
		return fmt.Errorf("copy: %w", err)
	}
	return to.CloseWrite()
}

// copyBulk copies through the same buffers as culvert does.
func copyBulk(to, from net.Conn) error {
	write, buffer := to.Write, make([]byte, bareBuffer)
	if bulk, ok := tunnel.NewBulk(); ok {
		defer bulk.Release()
		buffer = bulk.Bytes()
		if t, ok := to.(*tunnel.Conn); ok {
			write = func(p []byte) (int, error) { return t.WriteBulk(bulk, len(p)) }
		}
	}
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
