// Package credentials holds what is read from files and read again when they
// change: tokens, keys, certificates and CAs, of both hops. A [Policy] decides by
// them who may use a gateway; [ServerTLS] and [ClientTLS] make TLS configurations
// of them.
//
// Files are not watched but looked at on use. What is wrong with one is logged once.
package credentials
