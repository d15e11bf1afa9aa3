package credentials

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

const (
	// expirySoon is how long before its end a certificate is warned about.
	expirySoon = 7 * 24 * time.Hour
	// expiryEvery is how often the same warning is repeated.
	expiryEvery = 24 * time.Hour
	// expiryCheck is how often the files are looked at. They may have been replaced.
	expiryCheck = time.Minute
)

// Expiry warns of certificates of our own that have expired, that are not valid yet, or that expire
// within a week: when it is made, once a day, and soon after a file was replaced. It says when that
// is over.
type Expiry struct {
	log   *slog.Logger
	pairs []*datedPair
}

// Pair names the files of a certificate and its key.
type Pair struct{ CertFile, KeyFile File }

// datedPair is a certificate, and what was logged about it last.
type datedPair struct {
	file    File
	content *reread[*tls.Certificate]

	serial string // of the certificate that was seen last
	fault  fault
	logged time.Time
}

// fault is what is wrong with the time of a certificate; "" is nothing.
type fault string

const (
	hasExpired  fault = "certificate has expired"
	notYetValid fault = "certificate is not valid yet"
	expiresSoon fault = "certificate expires within a week"
)

// NewExpiry reads the files and warns for the first time. Those without a path are left out. A nil
// logger discards.
func NewExpiry(log *slog.Logger, pairs ...Pair) (*Expiry, error) {
	e := &Expiry{log: orDiscard(log)}
	for _, p := range pairs {
		if p.CertFile.Path == "" {
			continue
		}
		content, err := newKeyPair(p.CertFile, p.KeyFile, nil) // whoever uses the files logs why they cannot be read
		if err != nil {
			return nil, err
		}
		e.pairs = append(e.pairs, &datedPair{file: p.CertFile, content: content})
	}
	e.check()
	return e, nil
}

// Watch warns until ctx is done.
func (e *Expiry) Watch(ctx context.Context) {
	tick := time.NewTicker(expiryCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.check()
		}
	}
}

// Each calls f for each certificate, with the name of its setting. notAfter returns when the
// certificate that is in the files now expires; it may be called at any time.
func (e *Expiry) Each(f func(setting string, notAfter func() time.Time)) {
	for _, p := range e.pairs {
		f(p.file.Name, p.notAfter)
	}
}

// notAfter returns the zero time if there is no certificate.
func (p *datedPair) notAfter() time.Time {
	pair, err := p.content.get()
	if err != nil {
		return time.Time{}
	}
	return pair.Leaf.NotAfter
}

func (e *Expiry) check() {
	for _, p := range e.pairs {
		if pair, err := p.content.get(); err == nil {
			e.report(p, pair.Leaf)
		}
	}
}

// report logs what is wrong with a certificate, unless that was logged less than a day ago.
func (e *Expiry) report(p *datedPair, c *x509.Certificate) {
	found, serial := faultOf(c, time.Now()), c.SerialNumber.String()
	same := found == p.fault && serial == p.serial
	was := p.fault
	p.fault, p.serial = found, serial
	switch {
	case found == "" && was != "":
		e.log.Info("certificate is valid", "file", p.file.String(), "not_after", c.NotAfter.UTC())
	case found != "" && (!same || time.Since(p.logged) >= expiryEvery):
		p.logged = time.Now()
		if err := found.describe(p.file, c); found == expiresSoon {
			e.log.Warn(string(found), "err", err, "file", p.file.String())
		} else {
			e.log.Error(string(found), "err", err, "file", p.file.String())
		}
	}
}

// faultOf returns what is wrong with the time of c.
func faultOf(c *x509.Certificate, now time.Time) fault {
	switch {
	case now.After(c.NotAfter):
		return hasExpired
	case now.Before(c.NotBefore):
		return notYetValid
	case c.NotAfter.Sub(now) < expirySoon:
		return expiresSoon
	}
	return ""
}

// describe returns which certificate it is, and when its time begins or ends.
func (f fault) describe(file File, c *x509.Certificate) error {
	verb, at, remedy := "is valid until", c.NotAfter, "put a new certificate and its key into the files: they are read again without a restart"
	switch f {
	case hasExpired:
		verb = "expired at"
	case notYetValid:
		verb, at, remedy = "is valid from", c.NotBefore, "is the clock of this machine right?"
	}
	subject := cmp.Or(c.Subject.CommonName, "no name")
	if len(c.DNSNames) > 0 {
		subject = c.DNSNames[0]
	}
	return hints.New(fmt.Errorf("%s: the certificate for %s %s %s", file, subject, verb, at.UTC().Format(time.RFC3339)), remedy)
}
