package ingress

import "os/exec"

// Apache is Apache httpd. It accepts HTTP/1.1 and HTTP/2 and forwards HTTP/1.1.
type Apache struct {
	NoWebSocket bool // without upgrade= in ProxyPass, as before Apache 2.4.47
}

const apacheConf = `
ServerRoot {{.Dir}}
DefaultRuntimeDir {{.Dir}}
PidFile httpd.pid
ErrorLog /dev/stderr
User nobody
Group nogroup
{{range .Modules}}LoadModule {{.}}_module /usr/lib/apache2/modules/mod_{{.}}.so
{{end}}
Listen 127.0.0.1:{{.Port}}
ServerName 127.0.0.1
Protocols h2 http/1.1
SSLEngine on
SSLCertificateFile {{.Cert}}
SSLCertificateKeyFile {{.Key}}
ProxyPass / http://{{.Backend}}/ {{if not .NoWebSocket}}upgrade=websocket{{end}} flushpackets=on
`

func (a Apache) command(p params) (*exec.Cmd, error) {
	path, err := debian("apache2")
	if err != nil {
		return nil, err
	}
	data := struct {
		params
		Apache
		Modules []string
	}{p, a, []string{"mpm_event", "authz_core", "proxy", "proxy_http", "ssl", "http2"}}
	return exec.Command(path, "-D", "FOREGROUND", "-f", p.file("httpd.conf")), p.write("httpd.conf", apacheConf, data)
}
