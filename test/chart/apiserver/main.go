// Command apiserver installs charts/culvert into a real kube-apiserver, once for each values file,
// upgrades it, and reports the server's answers:
//
//	go -C test/chart/apiserver run .
//
// The server is built on the first run, which takes ten minutes, and kept in the tests' cache. etcd
// comes from the system (Debian: apt-get install etcd-server). No pod runs, since there is no
// kubelet and no controller. The run shows that the server accepts every object, enforces the
// restricted level on every pod, and has the right objects after an upgrade.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := cacheDir()
	if err != nil {
		return err
	}
	binary, err := buildServer(ctx, dir)
	if err != nil {
		return err
	}
	server, err := startServer(ctx, binary)
	if err != nil {
		return err
	}
	defer server.stop()
	c, err := newCluster(server)
	if err != nil {
		return err
	}
	failed := 0
	for _, check := range checks() {
		if err := check.run(ctx, c); err != nil {
			failed++
			fmt.Printf("FAIL %s: %v\n", check.name, err)
			continue
		}
		fmt.Printf("ok   %s\n", check.name)
	}
	if failed > 0 {
		return fmt.Errorf("%d checks failed", failed)
	}
	return context.Cause(ctx)
}
