package tunnel

import (
	"cmp"
	"crypto/tls"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// A front is what answers at the gateway's address: the gateway itself, or its ingress.
type front struct {
	ingress atomic.Pointer[string]
	expires atomic.Pointer[time.Time]
}

// maxIngress bounds the name of an ingress, in bytes.
const maxIngress = 64

// answered keeps what an ingress calls itself in a response. A gateway does not name itself so.
func (f *front) answered(h http.Header) {
	name := printable.Text(cmp.Or(h.Get("Server"), h.Get("Via")), maxIngress)
	if last := f.ingress.Load(); last == nil || *last != name {
		f.ingress.Store(&name)
	}
}

// showed keeps when the certificate of a handshake expires.
func (f *front) showed(s tls.ConnectionState) {
	if len(s.PeerCertificates) > 0 {
		at := s.PeerCertificates[0].NotAfter // a copy, which does not keep the certificate
		f.expires.Store(&at)
	}
}

// IngressName returns what the ingress in front of the gateway called itself in its last response
// (Server, or else Via), "" if it has not. It is printable.
func (d *Dialer) IngressName() string {
	d.init()
	if name := d.route.front.ingress.Load(); name != nil {
		return *name
	}
	return ""
}

// CertificateExpires returns when the certificate expires that the gateway or its ingress showed in
// the last handshake; the zero time is not known.
func (d *Dialer) CertificateExpires() time.Time {
	d.init()
	if at := d.route.front.expires.Load(); at != nil {
		return *at
	}
	return time.Time{}
}
