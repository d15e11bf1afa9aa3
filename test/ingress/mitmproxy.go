package ingress

import (
	"os/exec"
	"path/filepath"
	"strconv"
)

// Mitmproxy is an HTTP proxy that inspects: it ends TLS, and signs a certificate for each server
// with its own CA, as the proxies of many companies do. It holds a body until it is complete.
type Mitmproxy struct {
	Hosts map[string]string // addresses of names that only mitmproxy resolves
}

const mitmproxyScript = `
hosts = { {{range $name, $address := .Hosts}}"{{$name}}": "{{$address}}", {{end}} }

def server_connect(data):
    host, port = data.server.address
    data.server.address = (hosts.get(host, host), port)
`

func (m Mitmproxy) command(p params) (*exec.Cmd, error) {
	path, err := wheel(filepath.Join("bin", "mitmdump"))
	if err != nil {
		return nil, err
	}
	return exec.Command(path, "--set", "confdir="+p.Dir, "--set", "ssl_verify_upstream_trusted_ca="+p.CA, "--scripts", p.file("hosts.py"),
		"--listen-host", "127.0.0.1", "--listen-port", strconv.Itoa(p.Port)), p.write("hosts.py", mitmproxyScript, m)
}

// InspectionCA returns the PEM file of the CA with which [Mitmproxy] signs.
func (i *Ingress) InspectionCA() string { return filepath.Join(i.dir, "mitmproxy-ca-cert.pem") }
