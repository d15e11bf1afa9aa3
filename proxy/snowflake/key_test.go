package snowflake

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/pem"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const testPassphrase = "what opens culverts"

// testFingerprint is what openssl says of the key in testdata: openssl rsa -pubout
// -outform DER | openssl dgst -sha256 -binary | openssl enc -base64.
const testFingerprint = "SHA256:A6VaB0YP+oh+gRBtEl1rkT64YdRjhObuUUWaqulZ5GE="

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	b, err := os.ReadFile("testdata/plain.p8")
	if err != nil {
		panic(err)
	}
	key, err := ParsePrivateKey(b, nil)
	if err != nil {
		panic(err)
	}
	return key
})

func TestKeysAsOpensslWritesThem(t *testing.T) {
	for _, name := range []string{"plain.p8", "aes128-sha512.p8", "aes192-sha1.p8", "aes256.p8", "des3.p8"} {
		key, err := ParsePrivateKey(readFile(t, name), []byte(testPassphrase))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := Fingerprint(key); got != testFingerprint {
			t.Errorf("%s: fingerprint %s, want %s", name, got, testFingerprint)
		}
	}
}

// Each wrong file is told in a sentence and a remedy, and neither repeats any of it.
func TestWhatIsNoPrivateKey(t *testing.T) {
	encrypted := readFile(t, "aes256.p8")
	for name, tt := range map[string]struct {
		content    []byte
		passphrase string
		want, hint string
	}{
		"encrypted, without passphrase": {encrypted, "", "the key is encrypted, and there is no passphrase for it", "--snowflake-private-key-passphrase-file"},
		"encrypted, wrong passphrase":   {encrypted, "what opens doors", "the passphrase does not open the key", "openssl pkey"},
		"PKCS #1":                       {readFile(t, "pkcs1.pem"), "", "it holds an RSA key in PKCS #1, not a private key in PKCS #8", "openssl pkcs8 -topk8"},
		"public key":                    {readFile(t, "public.pem"), "", "it holds the public key", "-----BEGIN PRIVATE KEY-----"},
		"OpenSSH's":                     {readFile(t, "openssh.pem"), "", "it holds a key of OpenSSH", "ssh-keygen -p -m PKCS8"},
		"OpenSSH's public key":          {[]byte("ssh-rsa AAAAB3NzaC1yc2E user@host\n"), "", "a public key of OpenSSH", "-----BEGIN PRIVATE KEY-----"},
		"PuTTY's":                       {[]byte("PuTTY-User-Key-File-3: ssh-rsa\n"), "", "a key of PuTTY", "puttygen"},
		"EC key":                        {readFile(t, "ec-sec1.pem"), "", "a key for elliptic curves", "openssl genrsa"},
		"EC key in PKCS #8":             {readFile(t, "ec.p8"), "", "it is not an RSA key", "openssl genrsa"},
		"DSA key in PKCS #8":            {readFile(t, "dsa.p8"), "", "it is not an RSA key", "openssl genrsa"},
		"RSASSA-PSS":                    {readFile(t, "pss-aes256.p8"), testPassphrase, "it is a key for RSASSA-PSS", "openssl genrsa"},
		"RSASSA-PSS, wrong passphrase":  {readFile(t, "pss-aes256.p8"), "what opens doors", "the passphrase does not open the key", "openssl pkey"},
		"too short":                     {readFile(t, "short.p8"), "", "the key has 1024 bits, but Snowflake requires at least 2048", "openssl genrsa 2048"},
		"scrypt":                        {readFile(t, "scrypt.p8"), testPassphrase, "encrypted in a way that cannot be read here (1.3.6.1.4.1.11591.4.11)", "-v2 aes-256-cbc"},
		"PBES1":                         {readFile(t, "pbes1.p8"), testPassphrase, "encrypted in a way that cannot be read here (1.2.840.113549.1.12.1.3)", "-v2 aes-256-cbc"},
		"empty":                         {nil, "", "it is empty", "-----BEGIN PRIVATE KEY-----"},
		"a token":                       {[]byte("eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"), "", "it holds no key in PEM", "-----BEGIN PRIVATE KEY-----"},
		"DER":                           {[]byte{0x30, 0x82, 0x04, 0xbd}, "", "a key in DER", "-inform DER"},
		"PEM on one line":               {bytes.ReplaceAll(encrypted, []byte("\n"), []byte(" ")), "", "the PEM in it is damaged", "copy the file again"},
		"damaged":                       {[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "", "the file is damaged or cut short", "openssl pkey"},
		"damaged, encrypted":            {[]byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), "x", "the file is damaged or cut short", "copy"},
		"something else":                {[]byte("-----BEGIN PGP PRIVATE KEY BLOCK-----\nAAAA\n-----END PGP PRIVATE KEY BLOCK-----\n"), "", `"PGP PRIVATE KEY BLOCK" in PEM`, "-----BEGIN PRIVATE KEY-----"},
	} {
		var passphrase []byte
		if tt.passphrase != "" {
			passphrase = []byte(tt.passphrase)
		}
		_, err := ParsePrivateKey(tt.content, passphrase)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(hintOf(err), tt.hint) {
			t.Errorf("%s: %v, hint %q; want %q, hint %q", name, err, hintOf(err), tt.want, tt.hint)
		}
		if err != nil && tt.passphrase != "" && tt.passphrase != "x" && strings.Contains(err.Error()+hintOf(err), tt.passphrase) {
			t.Errorf("%s: the passphrase is in %v", name, err)
		}
	}
}

// A file that is cut or changed anywhere is an error or still the key, and no panic.
func FuzzPrivateKey(f *testing.F) {
	for _, name := range []string{"plain.p8", "aes256.p8", "des3.p8", "scrypt.p8", "pbes1.p8", "pkcs1.pem", "public.pem", "ec.p8", "dsa.p8", "pss-aes256.p8"} {
		f.Add(readFile(f, name), []byte(testPassphrase))
	}
	f.Fuzz(func(t *testing.T, content, passphrase []byte) {
		if bytes.Contains(content, []byte("ENCRYPTED")) && len(content) > 4<<10 {
			return
		}
		key, err := ParsePrivateKey(content, passphrase)
		switch {
		case err == nil && (key.N.BitLen() < minKeyBits || !strings.HasPrefix(Fingerprint(key), "SHA256:")):
			t.Errorf("a key of %d bits", key.N.BitLen())
		case err != nil && err.Error() == "":
			t.Error("an error that says nothing")
		}
	})
}

// A file cannot ask for more work than a key is worth: it is refused before any is done.
func TestIterationsAreBounded(t *testing.T) {
	block, _ := pem.Decode(readFile(t, "aes256.p8"))
	for _, n := range []int{0, -1, maxIterations + 1, math.MaxInt32} {
		var info encryptedPrivateKeyInfo
		var params pbes2Params
		var kdf pbkdf2Params
		unmarshal := func(der []byte, v any) {
			if _, err := asn1.Unmarshal(der, v); err != nil {
				t.Fatal(err)
			}
		}
		unmarshal(block.Bytes, &info)
		unmarshal(info.Algorithm.Parameters.FullBytes, &params)
		unmarshal(params.KDF.Parameters.FullBytes, &kdf)
		kdf.Iterations = n
		params.KDF.Parameters = asn1.RawValue{FullBytes: must(asn1.Marshal(kdf))}
		info.Algorithm.Parameters = asn1.RawValue{FullBytes: must(asn1.Marshal(params))}
		file := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: must(asn1.Marshal(info))})
		if _, err := ParsePrivateKey(file, []byte("x")); err == nil || !strings.Contains(err.Error(), "the parameters of its passphrase are damaged") {
			t.Errorf("%d iterations: %v", n, err)
		}
	}
}

func must(der []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return der
}

func TestPassphrases(t *testing.T) {
	for content, want := range map[string]string{
		"secret":        "secret",
		"secret\n":      "secret",
		"secret\r\n":    "secret",
		" of spaces \n": " of spaces ",
		"":              "it holds no passphrase",
		"\n":            "it holds no passphrase",
		"two\nlines\n":  "it has several lines, but a passphrase must be a single line",
	} {
		got, err := TrimPassphrase([]byte(content))
		if err != nil {
			got = []byte(err.Error())
		}
		if string(got) != want {
			t.Errorf("TrimPassphrase(%q) = %q, want %q", content, got, want)
		}
	}
}

func TestTokensInFiles(t *testing.T) {
	const pat = "eyJraWQiOiIxIn0.eyJwIjoiMSJ9.c2lnbmF0dXJl-_"
	for content, want := range map[string]string{
		pat: pat, pat + "\n": pat, "\ufeff " + pat + "\r\n\r\n": pat,
		"":                                  "it holds no token",
		" \n":                               "it holds no token",
		"-----BEGIN PRIVATE KEY-----\n":     "it holds a key, not a programmatic access token",
		"Snowflake Token=\"" + pat + "\"":   "it holds no token: a token must not contain spaces, line breaks, commas or quotes",
		`"` + pat + `"`:                     "it holds no token: a token must not contain spaces, line breaks, commas or quotes",
		pat + "\n" + pat:                    "it holds no token: a token must not contain spaces, line breaks, commas or quotes",
		"token_secret," + pat:               "it holds no token: a token must not contain spaces, line breaks, commas or quotes",
		"short":                             "it holds no token: it is too short for a token",
		strings.Repeat("long", maxToken):    "it holds no token: it is longer than any token",
		"t\u00f6ken-with-a-vowel-of-umlaut": "it holds no token: a token must not contain spaces, line breaks, commas or quotes",
	} {
		got, err := ParsePAT([]byte(content))
		if err != nil {
			got = err.Error()
			if hintOf(err) == "" {
				t.Errorf("ParsePAT(%.30q): no remedy beside %v", content, err)
			}
		}
		if got != want {
			t.Errorf("ParsePAT(%.30q) = %q, want %q", content, got, want)
		}
	}
}

// A wrong passphrase makes anything of the padding.
func TestPadding(t *testing.T) {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 16)
	for pad := range 256 {
		plain := bytes.Repeat([]byte{byte(pad)}, 16)
		data := make([]byte, 16)
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(data, plain)
		got, err := decryptCBC(block, iv, data)
		if good := pad >= 1 && pad <= 16; good != (err == nil) || good && len(got) != 16-pad {
			t.Errorf("padding of %d: %x, %v", pad, got, err)
		}
	}
	for _, n := range []int{0, 1, 15, 17} {
		if _, err := decryptCBC(block, iv, make([]byte, n)); err == nil {
			t.Errorf("%d bytes are whole blocks", n)
		}
	}
}
