package ingress

import (
	"net"
	"os/exec"
)

// Lighttpd accepts HTTP/1.1 and HTTP/2 and forwards HTTP/1.1.
type Lighttpd struct {
	Streams     bool // bodies are not buffered, in both directions
	NoWebSocket bool // without the option that passes an upgrade on
}

const lighttpdConf = `
server.modules = ("mod_openssl", "mod_proxy")
server.document-root = "{{.Dir}}"
server.bind = "127.0.0.1"
server.port = {{.Port}}
server.errorlog = "/dev/stderr"
ssl.engine = "enable"
ssl.pemfile = "{{.Cert}}"
ssl.privkey = "{{.Key}}"
{{if .Streams}}server.stream-request-body = 2
server.stream-response-body = 2{{end}}
{{if not .NoWebSocket}}proxy.header = ("upgrade" => "enable"){{end}}
proxy.server = ("" => (("host" => "{{.BackendHost}}", "port" => {{.BackendPort}})))
`

func (l Lighttpd) command(p params) (*exec.Cmd, error) {
	path, err := debian("lighttpd")
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(p.Backend)
	if err != nil {
		return nil, err
	}
	data := struct {
		params
		Lighttpd
		BackendHost, BackendPort string
	}{p, l, host, port}
	return exec.Command(path, "-D", "-f", p.file("lighttpd.conf")), p.write("lighttpd.conf", lighttpdConf, data)
}
