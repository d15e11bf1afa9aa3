package ingress

import (
	"crypto/md5"
	"fmt"
	"os"
	"os/exec"

	"github.com/culvert-proxy/culvert/test/hostsfile"
)

// Squid is an HTTP proxy that allows only HTTPS: CONNECT to any port, since the tests' gateways use
// none of the usual ones.
type Squid struct {
	User, Password string            // "": no authentication
	Hosts          map[string]string // addresses of names that only squid resolves
}

const squidConf = `
http_port 127.0.0.1:{{.Port}}
pid_filename none
cache deny all
cache_mem 8 MB
access_log stdio:{{.Dir}}/log/access.log
cache_log {{.Dir}}/log/cache.log
cache_store_log none
coredump_dir {{.Dir}}
shutdown_lifetime 0 seconds
pinger_enable off
hosts_file {{.Dir}}/hosts
netdb_filename none
acl tunnel method CONNECT
http_access deny !tunnel
{{if .User}}
auth_param basic program /usr/lib/squid/basic_ncsa_auth {{.Dir}}/users
auth_param basic children 1
auth_param basic realm the company
acl known proxy_auth REQUIRED
http_access allow known
{{else}}
http_access allow all
{{end}}
http_access deny all
`

func (s Squid) command(p params) (*exec.Cmd, error) {
	path, err := debian("squid")
	if err != nil {
		return nil, err
	}
	// Squid runs as nobody, which needs to write here.
	if err := os.Mkdir(p.file("log"), 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(p.file("log"), 0o777); err != nil {
		return nil, err
	}
	users := fmt.Sprintf("%s:%x\n", s.User, md5.Sum([]byte(s.Password)))
	if err := os.WriteFile(p.file("users"), []byte(users), 0o644); err != nil {
		return nil, err
	}
	if err := hostsfile.Write(p.file("hosts"), s.Hosts); err != nil {
		return nil, err
	}
	data := struct {
		params
		Squid
	}{p, s}
	return exec.Command(path, "-N", "-n", fmt.Sprint("culvert", p.Port), "-f", p.file("squid.conf")), p.write("squid.conf", squidConf, data)
}
