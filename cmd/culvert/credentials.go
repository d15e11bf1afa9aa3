package main

import (
	"os"
	"slices"
	"time"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// The kinds of credentials in the status document.
const (
	kindToken       = "token"
	kindCertificate = "certificate"
	kindCA          = "ca"
	kindKey         = "key"
	kindLogin       = "login"
)

// credentialFile is a file with a credential, and the flag that names it.
type credentialFile struct{ flag, kind, path string }

// show returns what the status document shows of a file. expires says when the certificate in it
// expires, and may be nil. The file is not read: whoever uses it does that when it has changed.
func (f credentialFile) show(now time.Time, expires func() time.Time) document.Credential {
	c := document.Credential{Setting: f.flag, Kind: f.kind}
	info, err := os.Stat(f.path)
	if err == nil {
		err = credentials.CheckRegular(f.path, info)
	}
	if err != nil {
		c.Error = oneLine(err)
	} else {
		c.Loaded = info.ModTime()
	}
	if expires != nil {
		c.Expires = expires()
	}
	return dated(c, now)
}

// dated returns c with how old it is, and how long it is still good.
func dated(c document.Credential, now time.Time) document.Credential {
	c.Loaded, c.Expires = document.At(c.Loaded), document.At(c.Expires)
	if !c.Loaded.IsZero() {
		c.Age = now.Sub(c.Loaded).Seconds()
	}
	if !c.Expires.IsZero() {
		c.Left = c.Expires.Sub(now).Seconds()
	}
	return c
}

// givenFiles returns the files that are named.
func givenFiles(all []credentialFile) []credentialFile {
	return slices.DeleteFunc(all, func(f credentialFile) bool { return f.path == "" })
}
