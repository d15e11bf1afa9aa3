package snowflake

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
)

// minKeyBits is the shortest RSA key that Snowflake accepts.
const minKeyBits = 2048

// toPKCS8 is how most other keys are converted.
const toPKCS8 = "openssl pkcs8 -topk8 -in OLD -out NEW, with -nocrypt for no passphrase, converts it"

// notKeys are the kinds of PEM that users mistake for a private key in PKCS #8: by their label,
// what they are and what to do.
var notKeys = map[string][2]string{
	"RSA PRIVATE KEY":     {"an RSA key in PKCS #1", toPKCS8},
	"OPENSSH PRIVATE KEY": {"a key of OpenSSH", "if it is an RSA key, this converts a copy of it: ssh-keygen -p -m PKCS8 -f COPY"},
	"EC PRIVATE KEY":      {"a key for elliptic curves", makeRSA},
	"DSA PRIVATE KEY":     {"a DSA key", makeRSA},
	"PUBLIC KEY":          {"the public key", otherHalf},
	"RSA PUBLIC KEY":      {"the public key", otherHalf},
	"SSH2 PUBLIC KEY":     {"the public key", otherHalf},
	"CERTIFICATE":         {"a certificate", otherHalf},
}

const (
	otherHalf = "the private key is needed, which begins with -----BEGIN PRIVATE KEY----- or -----BEGIN ENCRYPTED PRIVATE KEY-----"
	makeRSA   = "an RSA key is needed: openssl genrsa 2048 | openssl pkcs8 -topk8 -nocrypt -out rsa_key.p8; openssl rsa -in rsa_key.p8 -pubout -out rsa_key.pub"
)

// ParsePrivateKey returns the RSA key that a file in PEM holds as PKCS #8, encrypted or not. The
// passphrase is ignored if none is needed; nil means that there is none. Errors contain nothing of
// either.
func ParsePrivateKey(content, passphrase []byte) (*rsa.PrivateKey, error) {
	block, err := findKey(content)
	if err != nil {
		return nil, err
	}
	der := block.Bytes
	if block.Type == "ENCRYPTED PRIVATE KEY" {
		if passphrase == nil {
			return nil, badFile("the key is encrypted, and there is no passphrase for it", "name a file that holds it: %s", passphraseFile)
		}
		if der, err = decryptPBES2(der, passphrase); err != nil {
			return nil, err
		}
	}
	if err := checkAlgorithm(der); err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil && block.Type == "ENCRYPTED PRIVATE KEY" {
		return nil, errPassphrase
	}
	if err != nil {
		return nil, badFile("the key cannot be read: the file is damaged or cut short", "openssl pkey -in FILE -noout -check says more")
	}
	return wantRSA(key)
}

// findKey returns the first block of PEM that is a key in PKCS #8. Without one, the error says what
// the first block is.
func findKey(content []byte) (*pem.Block, error) {
	var first *pem.Block
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "PRIVATE KEY" || block.Type == "ENCRYPTED PRIVATE KEY" {
			return block, nil
		}
		if first == nil {
			first = block
		}
	}
	if first != nil {
		is, known := notKeys[first.Type]
		if !known {
			is = [2]string{fmt.Sprintf("%.40q in PEM", first.Type), otherHalf}
		}
		return nil, badFile("it holds "+is[0]+", not a private key in PKCS #8", is[1])
	}
	// No PEM at all: say what it looks like.
	switch start := bytes.TrimSpace(content); {
	case len(start) == 0:
		return nil, badFile("it is empty", otherHalf)
	case start[0] == 0x30: // SEQUENCE
		return nil, badFile("it is not PEM, but perhaps a key in DER", "openssl pkcs8 -topk8 -inform DER -in OLD -out NEW, with -nocrypt for no passphrase, converts it to PEM")
	case bytes.HasPrefix(start, []byte("ssh-")):
		return nil, badFile("it holds a public key of OpenSSH", otherHalf)
	case bytes.HasPrefix(start, []byte("PuTTY-User-Key-File")):
		return nil, badFile("it holds a key of PuTTY", "puttygen OLD -O private-openssh -o COPY, and then ssh-keygen -p -m PKCS8 -f COPY, convert an RSA key")
	case bytes.Contains(start, []byte("-----BEGIN")):
		return nil, badFile("the PEM in it is damaged: lines are missing, or joined", "copy the file again as it is")
	}
	return nil, badFile("it holds no key in PEM", otherHalf)
}

var (
	oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidPSS = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
)

// checkAlgorithm refuses a key that is not for RSA and says so; crypto/x509 calls most of those
// damaged. A damaged key passes, for x509 to refuse.
func checkAlgorithm(der []byte) error {
	var info struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
		More      asn1.RawValue `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil
	}
	switch is := info.Algorithm.Algorithm; {
	case is.Equal(oidPSS):
		return badFile("it is a key for RSASSA-PSS, with which no JWT can be signed that Snowflake accepts", makeRSA)
	case !is.Equal(oidRSA):
		return badFile("it is not an RSA key", makeRSA)
	}
	return nil
}

// wantRSA returns a parsed key if Snowflake accepts its kind and length.
func wantRSA(key any) (*rsa.PrivateKey, error) {
	k, ok := key.(*rsa.PrivateKey)
	switch {
	case !ok:
		return nil, badFile("it is not an RSA key", makeRSA)
	case k.N.BitLen() < minKeyBits:
		return nil, badFile(fmt.Sprintf("the key has %d bits, but Snowflake requires at least %d", k.N.BitLen(), minKeyBits), makeRSA)
	}
	return k, nil
}

// TrimPassphrase returns a passphrase as a file holds it: all of it but the end of its line.
func TrimPassphrase(content []byte) ([]byte, error) {
	p := bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
	switch {
	case len(p) == 0:
		return nil, errors.New("it holds no passphrase")
	case bytes.ContainsAny(p, "\r\n"):
		return nil, errors.New("it has several lines, but a passphrase must be a single line")
	}
	return p, nil
}

// Fingerprint is the RSA_PUBLIC_KEY_FP that Snowflake shows for a user with the public half of key.
func Fingerprint(key *rsa.PrivateKey) string {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "" // does not happen with an RSA key
	}
	sum := sha256.Sum256(der)
	return "SHA256:" + base64.StdEncoding.EncodeToString(sum[:])
}
