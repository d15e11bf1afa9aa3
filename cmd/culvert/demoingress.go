package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// ingress is a stand-in for that of Snowpark Container Services, in what
// matters to a tunnel: it ends TLS, speaks HTTP/1.1 and WebSocket only, sends
// whoever brings no token to a sign-in page, bans CONNECT, and says who came.
// It does not check the token, cuts nothing that is idle, and takes culvert's
// token where the real one wants Snowflake's.
type ingress struct {
	proxy     *httputil.ReverseProxy
	transport http.Transport // to the gateway
	errors    *log.Logger
	requests  sync.WaitGroup // for those that were upgraded, which the server forgets
}

// signInPage is where those go who bring no token.
const signInPage = "https://sign-in.invalid/"

func newIngress(backend string, log *slog.Logger) *ingress {
	in := &ingress{errors: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	in.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: backend})
			passOn(r.Out.Header)
		},
		Transport: &in.transport, ErrorLog: in.errors,
	}
	return in
}

// serve serves until ctx is done.
func (in *ingress) serve(ctx context.Context, ln net.Listener, certificate tls.Certificate) error {
	server := &http.Server{
		Handler: in, ErrorLog: in.errors, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	down := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(down)
		shutDown(server)
	})
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}
	err := server.Serve(httpListener{tls.NewListener(ln, config)})
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-down
	in.requests.Wait()
	in.transport.CloseIdleConnections()
	return nil
}

// shutDown lets requests end that have not been upgraded.
func shutDown(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), demoDrain)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		server.Close()
	}
}

func (in *ingress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in.requests.Add(1)
	defer in.requests.Done()
	switch {
	case r.Method == http.MethodConnect, r.Method == http.MethodTrace:
		http.Error(w, r.Method+" is not allowed here", http.StatusMethodNotAllowed)
	case !bringsToken(r.Header):
		http.Redirect(w, r, signInPage, http.StatusFound)
	default:
		in.proxy.ServeHTTP(w, r)
	}
}

// passOn takes the ingress's own credentials out of a request's header, and says
// whose they were.
func passOn(h http.Header) {
	h.Del("X-Sf-Spcs-Authorization")
	if isSnowflakeToken(h.Get("Authorization")) {
		h.Del("Authorization")
	}
	h.Set("Sf-Context-Current-User", "DEMO")
}

func bringsToken(h http.Header) bool {
	return isSnowflakeToken(h.Get("Authorization")) || isSnowflakeToken(h.Get("X-Sf-Spcs-Authorization")) || h.Get("Culvert-Authorization") != ""
}

func isSnowflakeToken(authorization string) bool {
	return strings.HasPrefix(authorization, "Snowflake Token=")
}

// httpListener has its connections refuse at once what is not HTTP, as nginx and
// Envoy do. Package net/http would wait for the end of a line.
type httpListener struct{ net.Listener }

func (l httpListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &httpConn{Conn: c}, nil
}

type httpConn struct {
	net.Conn
	isHTTP bool // owned by the reader
}

func (c *httpConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.isHTTP || n == 0 {
		return n, err
	}
	if c.isHTTP = 'A' <= p[0] && p[0] <= 'Z'; c.isHTTP { // as every method begins
		return n, err
	}
	c.Conn.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
	return 0, io.EOF
}

// selfSigned makes a certificate for this machine, in memory, which whoever is
// to believe it must be given.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "culvert demo"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 1, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}
