package credentials

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// maxChain is how many certificates a peer may show, its own included. Java
	// takes as many from a server, and 8 from a client. Keys are bounded by
	// package tls: RSA of 8192 bits.
	maxChain = 10

	// maxLinks is how many signatures between certificates of a chain may have
	// to be checked. A chain has one for each of them; one more stands for each
	// that is there twice, as of an authority that two others have signed.
	// Package x509 would stop at 100 only, which took 0.27 s.
	maxLinks = 16

	// maxCachedChains is how many chains are remembered: an agent has one.
	maxCachedChains = 1024

	// refusalLifetime is how long it is remembered that a chain was refused: as long
	// as a connection stands on which no request has authenticated.
	refusalLifetime = 10 * time.Second
)

// boundChain refuses what costs too much to verify, before any signature is
// checked.
func boundChain(chain []*x509.Certificate) error {
	switch {
	case len(chain) == 0:
		return errors.New("the peer sent no certificate")
	case len(chain) > maxChain:
		return fmt.Errorf("the peer sent %d certificates and may send %d: only its own and those of its issuers", len(chain), maxChain)
	case countLinks(chain[0], chain[1:], maxLinks) > maxLinks:
		return fmt.Errorf("the peer's certificates have more than %d possible links to issuers", maxLinks)
	}
	return nil
}

// countLinks is how many signatures a search for the issuers of cert checks at
// most, or something beyond the limit. Package x509 searches by name.
func countLinks(cert *x509.Certificate, others []*x509.Certificate, limit int) (n int) {
	for i, issuer := range others {
		if n > limit {
			break
		}
		if bytes.Equal(issuer.RawSubject, cert.RawIssuer) {
			n += 1 + countLinks(issuer, slices.Concat(others[:i], others[i+1:]), limit-n)
		}
	}
	return n
}

// verifyChain checks a peer's certificate, which comes first, and the chain that
// it sent along. An empty name is not checked. It returns when the first of the
// certificates expires that were needed.
func verifyChain(roots *x509.CertPool, chain []*x509.Certificate, usage x509.ExtKeyUsage, name string) (until time.Time, err error) {
	if err := boundChain(chain); err != nil {
		return until, &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	verified, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return until, &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	}
	for _, cert := range verified[0] {
		if until.IsZero() || cert.NotAfter.Before(until) {
			until = cert.NotAfter
		}
	}
	return until, nil
}

// chainCache is what was found out about chains, so that a chain is verified once
// and not for each request of each connection. They hold no certificates.
type chainCache struct {
	mu      sync.Mutex
	results map[[sha256.Size]byte]chainResult // by the certificates
	checked int                               // how often a chain was verified
}

type chainResult struct {
	roots *x509.CertPool // that the chain was verified against
	until time.Time
	err   string // "" for a chain that is good: text alone, which holds no certificate
}

// verify is verifyChain of a client's certificate, unless the same chain has been
// verified against the same roots.
func (v *chainCache) verify(roots *x509.CertPool, chain []*x509.Certificate) error {
	if err := boundChain(chain); err != nil {
		return err
	}
	hash := sha256.New()
	for _, cert := range chain {
		hash.Write(cert.Raw) // DER says by itself how long it is
	}
	key := [sha256.Size]byte(hash.Sum(nil))
	v.mu.Lock()
	known, ok := v.results[key]
	v.mu.Unlock()
	if !ok || time.Now().After(known.until) || !known.roots.Equal(roots) {
		known = checkChain(roots, chain)
		v.store(key, known)
	}
	if known.err != "" {
		return errors.New(known.err)
	}
	return nil
}

func checkChain(roots *x509.CertPool, chain []*x509.Certificate) chainResult {
	until, err := verifyChain(roots, chain, x509.ExtKeyUsageClientAuth, "")
	if err != nil {
		return chainResult{roots, time.Now().Add(refusalLifetime), fmt.Sprintf("%.*s", maxRefusal, err.Error())}
	}
	return chainResult{roots, until, ""}
}

// maxRefusal is how many characters of a refusal are kept and told: it may quote
// the certificate.
const maxRefusal = 300

func (v *chainCache) store(key [sha256.Size]byte, new chainResult) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.checked++
	if v.results == nil || len(v.results) >= maxCachedChains {
		v.results = map[[sha256.Size]byte]chainResult{} // what is in use comes back with the next request
	}
	v.results[key] = new
}
