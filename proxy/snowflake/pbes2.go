package snowflake

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"hash"
)

// The encrypted form of PKCS #8 (RFC 5958 §3) with PBES2 (RFC 8018 §6.2), as openssl pkcs8 -topk8
// writes it: PBKDF2 and a block cipher in CBC mode. It is read here because crypto/x509 reads no
// encrypted keys, and github.com/youmark/pkcs8, which does, derives a key with as many iterations
// as the file says: a damaged or planted file would cost minutes of CPU. Ours are bounded by
// maxIterations.
var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
)

// encryptedPrivateKeyInfo is EncryptedPrivateKeyInfo of RFC 5958 §3.
type encryptedPrivateKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

// pbes2Params are PBES2-params of RFC 8018 §A.4.
type pbes2Params struct {
	KDF    pkix.AlgorithmIdentifier
	Scheme pkix.AlgorithmIdentifier
}

// pbkdf2Params are PBKDF2-params of RFC 8018 §A.2, where the salt is always given and the PRF may
// be left out for HMAC with SHA-1.
type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

// prfs are the hashes of HMACs; the empty one is the default.
var prfs = map[string]func() hash.Hash{
	"":                    sha1.New,
	"1.2.840.113549.2.7":  sha1.New,
	"1.2.840.113549.2.8":  sha256.New224,
	"1.2.840.113549.2.9":  sha256.New,
	"1.2.840.113549.2.10": sha512.New384,
	"1.2.840.113549.2.11": sha512.New,
}

// schemes are the ciphers, with the length of their keys.
var schemes = map[string]struct {
	keyLength int
	block     func([]byte) (cipher.Block, error)
}{
	"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
	"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
	"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
	"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
}

// maxIterations bounds what a file can cost to a few seconds. OpenSSL writes 2048, and OWASP
// advises 600,000 for SHA-256.
const maxIterations = 2_000_000

// reencrypt is how a key becomes one that decryptPBES2 reads.
const reencrypt = "openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW encrypts it in a way that can be read here"

// errPassphrase may also mean a damaged file.
var errPassphrase = badFile("the passphrase does not open the key", "does it belong to this key? openssl pkey -in FILE -noout asks for it and says so")

// decryptPBES2 returns the DER of the key. A wrong passphrase is not always noticed here: what is
// returned may not be a key.
func decryptPBES2(der, passphrase []byte) ([]byte, error) {
	var info encryptedPrivateKeyInfo
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
		return nil, badFile("the encrypted key cannot be read: the file is damaged or cut short", "copy the file again as it is")
	}
	if !info.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, unknownEncryption(info.Algorithm)
	}
	var params pbes2Params
	if _, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &params); err != nil {
		return nil, badFile("the encrypted key cannot be read: the parameters of its encryption are damaged", reencrypt)
	}
	scheme, known := schemes[params.Scheme.Algorithm.String()]
	if !known {
		return nil, unknownEncryption(params.Scheme)
	}
	key, err := deriveKey(params.KDF, passphrase, scheme.keyLength)
	if err != nil {
		return nil, err
	}
	block, err := scheme.block(key)
	if err != nil {
		return nil, err
	}
	var iv []byte
	if _, err := asn1.Unmarshal(params.Scheme.Parameters.FullBytes, &iv); err != nil || len(iv) != block.BlockSize() {
		return nil, badFile("the encrypted key cannot be read: the parameters of its encryption are damaged", reencrypt)
	}
	return decryptCBC(block, iv, info.Data)
}

// deriveKey derives the cipher's key from the passphrase. It takes up to some seconds.
func deriveKey(kdf pkix.AlgorithmIdentifier, passphrase []byte, length int) ([]byte, error) {
	if !kdf.Algorithm.Equal(oidPBKDF2) {
		return nil, unknownEncryption(kdf)
	}
	var params pbkdf2Params
	if _, err := asn1.Unmarshal(kdf.Parameters.FullBytes, &params); err != nil || params.Iterations < 1 || params.Iterations > maxIterations {
		return nil, badFile("the encrypted key cannot be read: the parameters of its passphrase are damaged", reencrypt)
	}
	prf, known := prfs[params.PRF.Algorithm.String()]
	if !known {
		return nil, unknownEncryption(params.PRF)
	}
	return pbkdf2.Key(prf, string(passphrase), params.Salt, params.Iterations, length)
}

// decryptCBC decrypts, and takes away the padding of RFC 8018 §6.1.1. That the padding is wrong may
// be said: there is no oracle, whoever sees the error has the file.
func decryptCBC(block cipher.Block, iv, data []byte) ([]byte, error) {
	size := block.BlockSize()
	if len(data) == 0 || len(data)%size != 0 {
		return nil, badFile("the encrypted key cannot be read: the file is damaged or cut short", "copy the file again as it is")
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > size {
		return nil, errPassphrase
	}
	for _, b := range plain[len(plain)-pad:] {
		if int(b) != pad {
			return nil, errPassphrase
		}
	}
	return plain[:len(plain)-pad], nil
}

// unknownEncryption is about an algorithm other than the ones above, PBES1 and scrypt among them.
func unknownEncryption(a pkix.AlgorithmIdentifier) error {
	return badFile(fmt.Sprintf("the key is encrypted in a way that cannot be read here (%s)", a.Algorithm), reencrypt)
}
