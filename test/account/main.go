// Command account stands in for a Snowflake account in which charts/spcs has been run. It lets you
// try an agent's flags without an account:
//
//	go run ./test/account
//
// It has in-memory brokers, a gateway, an ingress that requires a token, and /oauth/token. It
// writes the credentials into a folder, prints what to type in another terminal, and runs until
// Ctrl-C. See docs/snowflake.md.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/snowflake/standin"
)

// The names that 60-access.sql creates, as Snowflake spells them.
const (
	user = "CULVERT_AGENT"
	role = "CULVERT_CLIENT"
)

// version is the gateway's.
const version = "(stand-in)"

func main() {
	listen := flag.String("listen", "127.0.0.1:8443", "where the ingress is, instead of at a host of Snowflake's")
	dir := flag.String("dir", "", "folder for the credentials; unset: a new one, which goes at the end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *dir, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "account:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, dir string, stdout io.Writer) error {
	if dir == "" {
		temporary, err := os.MkdirTemp("", "culvert-account-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temporary)
		dir = temporary
	}
	front, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	defer front.Close()
	cluster, err := fakekafka.Start(3, kfake.SeedTopics(3, "demo"))
	if err != nil {
		return err
	}
	defer cluster.Close()

	account := &standin.Account{Host: "myorg-myaccount.snowflakecomputing.com", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	login := httptest.NewTLSServer(account)
	defer login.Close()
	files, err := writeCredentials(dir, account, login.Certificate())
	if err != nil {
		return err
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	gateway, err := gatewayOf(cluster, files.tokens)
	if err != nil {
		return errors.Join(err, inner.Close())
	}
	host, _, _ := net.SplitHostPort(front.Addr().String())
	ingress := &standin.Ingress{
		Account: account, Certificate: login.TLS.Certificates[0],
		Services: []*standin.Service{{Hosts: []string{host}, Roles: []string{role}, Instances: []standin.Instance{{Address: inner.Addr().String()}}}},
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return gateway.Run(ctx, inner, nil) })
	group.Go(func() error { return ingress.Serve(ctx, front) })
	files.print(stdout, "https://"+front.Addr().String(), login.URL)
	return group.Wait()
}

func gatewayOf(cluster *fakekafka.Cluster, tokens string) (*proxy.Gateway, error) {
	log := slog.New(slog.DiscardHandler)
	t, err := credentials.ReadTokens(credentials.File{Path: tokens, Name: "the gateway's token"}, log)
	if err != nil {
		return nil, err
	}
	policy := &credentials.Policy{Tokens: t}
	m := metrics.New(prometheus.NewRegistry(), metrics.Gateway, version)
	return &proxy.Gateway{
		Version: version, Authenticate: policy.Authenticate, DrainTimeout: time.Second, Metrics: m, Logger: log,
		Brokers: &proxy.Brokers{Bootstrap: cluster.Bootstrap(), Resolver: cluster.Resolver(), Metrics: m},
	}, nil
}

// files are the credentials that the instructions create.
type files struct{ ca, tokens, pat, key string }

func writeCredentials(dir string, account *standin.Account, authority *x509.Certificate) (*files, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	account.SetUser(standin.User{Name: user, Roles: []string{role}, Keys: []*rsa.PublicKey{&key.PublicKey}})
	f := &files{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "culvert.token"), filepath.Join(dir, "snowflake.pat"), filepath.Join(dir, "snowflake.p8")}
	return f, errors.Join(
		os.WriteFile(f.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}), 0o600),
		os.WriteFile(f.tokens, []byte("agent="+rand.Text()+"\n"), 0o600),
		os.WriteFile(f.pat, []byte(account.NewPAT(user, role, 90*24*time.Hour)+"\n"), 0o600),
		os.WriteFile(f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}

func (f *files) print(w io.Writer, endpoint, login string) {
	fmt.Fprintf(w, `What stands in for a Snowflake account is ready: an ingress at %[1]s,
a gateway behind it, three brokers with a topic named demo behind that.

With the access token, in another terminal:

  culvert agent --gateway-url %[1]s --gateway-ca-file %[2]s \
    --token-file %[3]s --snowflake-pat-file %[4]s

Or with the key:

  culvert agent --gateway-url %[1]s --gateway-ca-file %[2]s \
    --token-file %[3]s --snowflake-private-key-file %[5]s \
    --snowflake-account myorg-myaccount --snowflake-user %[6]s --snowflake-token-url %[7]s

And then: kcat -b 127.0.0.1:9092 -L. Ctrl-C ends it all.
`, endpoint, f.ca, f.tokens, f.pat, f.key, user, login)
}
