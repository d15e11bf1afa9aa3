package ingress

import (
	"cmp"
	"os/exec"
	"time"
)

// HAProxy accepts HTTP/1.1 and HTTP/2, or balances TCP connections with the PROXY protocol.
type HAProxy struct {
	TLS         bool          // the backend speaks TLS
	H2C         bool          // forwards HTTP/2 without TLS; otherwise HTTP/1.1
	IdleCut     time.Duration // timeout tunnel, client and server; 0 is a minute
	NoDelay     bool          // option http-no-delay: small messages do not wait for more
	NoWebSocket bool          // refuses upgrades
	Balances    string        // carries TCP, and not HTTP, and begins it with "send-proxy", "send-proxy-v2" or nothing ("no-send-proxy"); "": carries HTTP
	Passes      bool          // with Balances: TLS passes through; otherwise it ends here
	Source      string        // the IP address from which it connects to the backend; "": the system's choice
}

const haproxyConf = `
global
  log stderr format raw local0
defaults
  log global
  {{if .Balances}}mode tcp
  option tcplog
  {{else}}mode http
  option httplog
  {{end}}option logasap
  timeout connect 2s
  timeout client {{.CutMS}}
  timeout server {{.CutMS}}
  timeout tunnel {{.CutMS}}
  {{if .NoDelay}}option http-no-delay{{end}}
frontend https
  bind 127.0.0.1:{{.Port}} {{if not .Passes}}ssl crt both.pem alpn h2,http/1.1{{end}}
  {{if .NoWebSocket}}http-request deny if { hdr(Upgrade) -m found }{{end}}
  default_backend gateway
backend gateway
  server gateway {{.Backend}} {{.Balances}} {{if .TLS}}ssl verify none{{end}} {{if .H2C}}proto h2{{end}} {{with .Source}}source {{.}}{{end}}
`

func (h HAProxy) command(p params) (*exec.Cmd, error) {
	path, err := debian("haproxy")
	if err != nil {
		return nil, err
	}
	if err := p.join("both.pem", p.Cert, p.Key); err != nil {
		return nil, err
	}
	data := struct {
		params
		HAProxy
		CutMS int64
	}{p, h, cmp.Or(h.IdleCut, time.Minute).Milliseconds()}
	cmd := exec.Command(path, "-db", "-f", "haproxy.cfg")
	cmd.Dir = p.Dir
	return cmd, p.write("haproxy.cfg", haproxyConf, data)
}
