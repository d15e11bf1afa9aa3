// Package credentials reads tokens, keys, certificates and CAs from files, and reads them again
// when the files change. A [Policy] decides with them who may use a gateway. [ServerTLS] and
// [ClientTLS] make TLS configurations from them.
//
// Files are not watched. They are checked on use, so there are no goroutines to end. An error of a
// file is logged once, until the file is right again.
package credentials
