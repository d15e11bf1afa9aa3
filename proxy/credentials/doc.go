// Package credentials holds what is read from files and read again when they
// change: tokens, keys, certificates and CAs, of both hops. A [Policy] decides by
// them who may use a gateway; [ServerTLS] and [ClientTLS] make TLS configurations
// of them.
//
// Nothing is watched: files are looked at on use. Only errors that a file's user can
// mend are logged, once each.
package credentials
