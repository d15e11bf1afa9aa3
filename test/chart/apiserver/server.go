package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// kubernetesVersion is the version of the server.
const kubernetesVersion = "1.37.2"

// cacheDir is where the tests keep what they build.
func cacheDir() (string, error) {
	dir := os.Getenv("CULVERT_TEST_CACHE")
	if dir == "" {
		dir = "../../../.cache/test"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// buildServer returns the server's path. Another module can build k8s.io/kubernetes if it replaces
// the modules that Kubernetes contains.
func buildServer(ctx context.Context, cache string) (string, error) {
	dir := filepath.Join(cache, "kube-apiserver-"+kubernetesVersion)
	binary := filepath.Join(dir, "kube-apiserver")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	fmt.Println("building kube-apiserver, ten minutes ...")
	source, err := output(ctx, cache, "go", "mod", "download", "-x", "k8s.io/kubernetes@v"+kubernetesVersion)
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, source)
	}
	mods, err := output(ctx, cache, "go", "env", "GOMODCACHE")
	if err != nil {
		return "", err
	}
	mod, err := os.ReadFile(filepath.Join(strings.TrimSpace(mods), "cache/download/k8s.io/kubernetes/@v/v"+kubernetesVersion+".mod"))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), wrapper(mod), 0o644); err != nil {
		return "", err
	}
	const importer = "package wrapper\n\nimport _ \"k8s.io/kubernetes/cmd/kube-apiserver/app\"\n"
	if err := os.WriteFile(filepath.Join(dir, "wrapper.go"), []byte(importer), 0o644); err != nil {
		return "", err
	}
	if out, err := output(ctx, dir, "go", "mod", "tidy"); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	flags := "-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v" + kubernetesVersion
	if out, err := output(ctx, dir, "go", "build", flags, "-o", binary, "k8s.io/kubernetes/cmd/kube-apiserver"); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return binary, nil
}

// wrapper returns the go.mod of a module that can require k8s.io/kubernetes, given the latter's
// own.
func wrapper(mod []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "module wrapper\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v%s\n\n", kubernetesVersion)
	for line := range strings.Lines(string(mod)) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == "v0.0.0" {
			fmt.Fprintf(&b, "replace %s => %s v0.%s\n", f[0], f[0], strings.TrimPrefix(kubernetesVersion, "1."))
		}
	}
	return b.Bytes()
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), err
}

// token is the administrator's.
const token = "chart-test"

// server is an API server and its etcd.
type server struct {
	dir       string
	url       string
	processes []*exec.Cmd
}

func startServer(ctx context.Context, binary string) (s *server, err error) {
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		return nil, errors.New("etcd is not installed; Debian: apt-get install etcd-server")
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	s = &server{url: fmt.Sprintf("https://127.0.0.1:%d", ports[2])}
	if s.dir, err = os.MkdirTemp("", "culvert-apiserver-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	if err := s.start(etcd, "--data-dir="+filepath.Join(s.dir, "etcd"), "--unsafe-no-fsync", "--name=one", "--initial-cluster=one="+peer,
		"--listen-client-urls="+client, "--advertise-client-urls="+client, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer); err != nil {
		return nil, err
	}
	key, tokens, err := s.secrets()
	if err != nil {
		return nil, err
	}
	if err := s.start(binary, "--etcd-servers="+client, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[2]),
		"--cert-dir="+filepath.Join(s.dir, "certs"), "--service-cluster-ip-range=10.0.0.0/16", "--authorization-mode=AlwaysAllow",
		"--token-auth-file="+tokens, "--service-account-issuer=https://localhost", "--service-account-key-file="+key,
		"--service-account-signing-key-file="+key, "--disable-admission-plugins=ServiceAccount"); err != nil {
		return nil, err
	}
	return s, s.wait(ctx)
}

// secrets writes the server's key for service accounts and the tokens that it accepts.
func (s *server) secrets() (key, tokens string, err error) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", "", err
	}
	key, tokens = filepath.Join(s.dir, "sa.key"), filepath.Join(s.dir, "tokens.csv")
	block := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})
	return key, tokens, errors.Join(
		os.WriteFile(key, block, 0o600),
		os.WriteFile(tokens, []byte(token+`,admin,admin,"system:masters"`+"\n"), 0o600),
	)
}

func (s *server) start(name string, args ...string) error {
	log, err := os.Create(filepath.Join(s.dir, filepath.Base(name)+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.processes = append(s.processes, cmd)
	return nil
}

// wait returns when the server is ready.
func (s *server) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("kube-apiserver not ready within two minutes"))
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/readyz", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token) // the server requires one
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if response, err := client.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(s.dir, "kube-apiserver.log"))
			return fmt.Errorf("%w\n%s", context.Cause(ctx), log[max(0, len(log)-2000):])
		}
	}
}

// stop ends both processes and removes what they left.
func (s *server) stop() {
	for i := len(s.processes) - 1; i >= 0; i-- {
		s.processes[i].Process.Kill()
		s.processes[i].Wait()
	}
	os.RemoveAll(s.dir)
}

// freePorts returns free ports.
func freePorts(n int) (ports []int, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
