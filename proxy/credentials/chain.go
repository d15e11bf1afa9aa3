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
	// maxChain bounds the certificates that a peer sends, including its own. Java accepts as many
	// from a server, and 8 from a client. Package tls bounds the cost of each one: it refuses RSA
	// keys of more than 8192 bits.
	maxChain = 10

	// maxLinks bounds the signatures that verifying a chain may have to check. A plain chain has
	// one for each certificate. There are more if a CA appears twice, signed by two others. Package
	// x509 stops only at 100 signatures, which took 0.27 s of CPU time, for a peer without
	// credentials.
	maxLinks = 16

	// maxCachedChains bounds the cached results. Each agent has one chain.
	maxCachedChains = 1024

	// refusalLifetime is how long a refused chain stays in the cache: as long as a connection
	// without credentials may stay open, so that all its requests cost one verification.
	refusalLifetime = 10 * time.Second
)

// boundChain returns an error for a chain that costs too much to verify. It checks no signatures.
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

// countLinks returns how many signatures a search for the issuers of cert checks at most, or some
// number above limit. Package x509 searches by name, so countLinks compares names.
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

// verifyChain verifies a peer's certificate, the first of chain, with the other ones as
// intermediates. An empty name is not checked. until is when the first certificate that was needed
// expires.
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

// chainCache caches the results of verifying chains, so that a chain is not verified again for each
// request of each connection. It holds hashes instead of certificates, whose size peers choose. The
// zero value is ready; it may be used concurrently.
type chainCache struct {
	mu      sync.Mutex
	results map[[sha256.Size]byte]chainResult // by the certificates
	checked int                               // how often a chain was verified, for tests
}

type chainResult struct {
	roots *x509.CertPool // the CAs that the chain was verified against
	until time.Time      // when the result expires
	err   string         // "" for a valid chain; a text, since x509's errors hold certificates
}

// verify verifies a client's chain, unless the cache has a result for the same chain and the same
// roots.
func (v *chainCache) verify(roots *x509.CertPool, chain []*x509.Certificate) error {
	if err := boundChain(chain); err != nil {
		return err
	}
	hash := sha256.New()
	for _, cert := range chain {
		hash.Write(cert.Raw) // DER contains its own length, so two chains never have the same bytes
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

// maxRefusal bounds the characters of a refusal that are cached and sent to the peer. The error may
// quote the certificate.
const maxRefusal = 300

func (v *chainCache) store(key [sha256.Size]byte, new chainResult) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.checked++
	if v.results == nil || len(v.results) >= maxCachedChains {
		v.results = map[[sha256.Size]byte]chainResult{} // chains in use come back with their next request
	}
	v.results[key] = new
}
