package main

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// watchCertificates warns of own certificates that end, at once and until ctx is done or the caller
// calls stop. It has m and the overview show when they do.
func watchCertificates(ctx context.Context, m *metrics.Metrics, o *overview, log *slog.Logger, pairs ...credentials.Pair) (stop func(), err error) {
	expiry, err := credentials.NewExpiry(log, pairs...)
	if err != nil {
		return nil, badFile(err)
	}
	o.expires = map[string]func() time.Time{}
	expiry.Each(func(setting string, notAfter func() time.Time) {
		m.AskExpiry(strings.TrimLeft(setting, "-"), notAfter)
		o.expires[setting] = notAfter
	})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		expiry.Watch(ctx)
	}()
	return func() {
		cancel()
		<-done
	}, nil
}

// pair names the files of two flags.
func pair(certFlag, certFile, keyFlag, keyFile string) credentials.Pair {
	return credentials.Pair{
		CertFile: credentials.File{Path: certFile, Name: certFlag},
		KeyFile:  credentials.File{Path: keyFile, Name: keyFlag},
	}
}
