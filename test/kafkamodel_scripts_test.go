package test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/test/kafkamodel"
)

// script is what a client sends, in flights. The next one is sent when the model has been answered
// everything it expects.
type script struct {
	name    string
	sasl    bool // at the listener that requires authentication
	flights []flight
	cfg     kafkamodel.Config
}

// flight returns the bytes to send. last is the token that the broker sent last.
type flight func(last []byte) []byte

func once(frames ...[]byte) flight {
	b := slices.Concat(frames...)
	return func([]byte) []byte { return b }
}

// anonymous is a script for the listener without SASL, login for the other one.
func anonymous(name string, frames ...[]byte) script {
	return script{name: name, flights: []flight{once(frames...)}}
}

func login(name string, frames ...[]byte) script {
	return script{name: name, sasl: true, flights: []flight{once(frames...)}}
}

// again is a script whose client may reauthenticate.
func again(s script) script {
	s.cfg.Reauthenticate = func(int) bool { return true }
	return s
}

// fails is a script whose Produce request gets an error.
func fails(s script) script {
	s.cfg.ProduceFails = func(kafkamodel.Event) bool { return true }
	return s
}

func modelScripts(topic string) []script {
	return slices.Concat(frameScripts(), headerScripts(), versionScripts(), produceScripts(topic), everyRequest(),
		handshakeScripts(), tokenScripts(), framedTokenScripts(topic), againScripts())
}

func frameScripts() []script {
	return []script{
		anonymous("three requests at once", metadata(1), versions(3, 2), metadata(3)),
		anonymous("correlation ids of the client's choice", metadata(1), metadata(1), versions(0, -1)),
		anonymous("length 0", metadata(1), withLength(nil)),
		anonymous("length -1", metadata(1), digits("ffffffff")),
		anonymous("length of least", digits("80000000")),
		anonymous("length over the limit", digits("06400001")),
		anonymous("length 3", withLength(digits("000300"))),
		anonymous("length 7", withLength(digits("0003 0001 000000"))),
		anonymous("length 9", withLength(digits("0003 0001 00000001 ff"))),
		login("length 0 before authentication", withLength(nil)),
		login("length -1 before authentication", digits("ffffffff")),
		login("length over the limit before authentication", digits("00080001")),
		login("length at the limit before authentication", digits("00080000")),
	}
}

func headerScripts() []script {
	// Metadata v1 with a given encoding of the client id, and v12 with given tags.
	client := func(name, id string) script {
		return anonymous("client id "+name, withLength(digits("0003 0001 00000001"+id+"00000000")), metadata(2))
	}
	tags := func(name, tags string) script {
		return anonymous("tags "+name, withLength(digits("0003 000c 00000001 ffff"+tags+"01 00 00 00")), metadata(2))
	}
	return []script{
		client("-1", "ffff"),
		client("-2", "fffe"),
		client("-32768", "8000"),
		client("empty", "0000"),
		client("no UTF-8", "0003 ff00c0"),
		client("beyond the frame", "0005"),
		anonymous("client id that is the rest of the frame", withLength(digits("0012 0000 00000001 0004 00000000")), metadata(2)),
		anonymous("tags cut", withLength(digits("0012 0003 00000001 ffff"))),
		tags("in any order, twice", "03 05 01 aa 01 00 05 02 bbbb"),
		tags("of overlong count", "8080808000"),
		tags("of negative count", "8080808008"),
		tags("of a count that loses bits", "8080808010"),
		tags("of a count of six bytes", "808080808000"),
		tags("with a negative number", "01 ffffffff0f 00"),
		tags("beyond the frame", "01 00 7f"),
		tags("of negative size", "01 00 ffffffff0f"),
		anonymous("bytes behind the body", withLength(digits("0003 0001 00000001 ffff 00000000 0102030405")), metadata(2)),
	}
}

func versionScripts() []script {
	spelled := func(name, s string) script { return anonymous(name, withLength(digits(s)), metadata(2)) }
	return []script{
		spelled("key 93, unknown", "005d 0000 00000001 ffff 00"),
		spelled("key -1", "ffff 0000 00000001 ffff 00"),
		spelled("key 7, removed, of version 0", "0007 0000 00000001"),
		spelled("key 4, removed", "0004 0001 00000001 ffff 00"),
		spelled("key 52, for controllers", "0034 0000 00000001 ffff 00"),
		spelled("key 58, Envelope", "003a 0000 00000001 ffff 00 00000000"),
		spelled("Metadata 14", "0003 000e 00000001 ffff 00 00 00 00 00"),
		spelled("Metadata -1", "0003 ffff 00000001 ffff 00000000"),
		spelled("Produce 2, offered but not served", "0000 0002 00000001 ffff 0001 00000000 00000000"),
		spelled("InitProducerId 6, not stable", "0016 0006 00000001 ffff 00 00 00000000 0000000000000000 0000 00 00 00"),
		anonymous("ApiVersions 5", versions(5, 1), metadata(2)),
		spelled("ApiVersions 99", "0012 0063 00000001 ffff 00"),
		spelled("ApiVersions 99 without tags", "0012 0063 00000001 ffff"),
		spelled("ApiVersions -1", "0012 ffff 00000001 ffff"),
		spelled("ApiVersions 3 with a bad name", "0012 0003 00000001 ffff 00 02 2d 02 31 00"),
		spelled("ApiVersions 3 with null", "0012 0003 00000001 ffff 00 00 02 31 00"),
		spelled("ApiVersions 3 cut", "0012 0003 00000001 ffff 00 02 61 02 31"),
		anonymous("SaslHandshake without SASL", handshake(0, "PLAIN", 1), handshake(1, "PLAIN", 2), metadata(3)),
		spelled("SaslHandshake 2 without SASL", "0011 0002 00000001 ffff 0005 504c41494e"),
		spelled("SaslHandshake without SASL, null", "0011 0000 00000001 ffff ffff"),
		anonymous("SaslAuthenticate without SASL", authenticate(0, "x", 1), authenticate(2, "x", 2), metadata(3)),
	}
}

func produceScripts(topic string) []script {
	// Produce without topics, with a given transactional id and acks.
	id := func(name, s string) script {
		return anonymous("transactional id "+name, withLength(digits("0000 0009 00000001 ffff 00"+s+"0000 00000000 01 00")), metadata(2))
	}
	v3 := func(name, s string) script {
		return anonymous(name, withLength(digits("0000 0003 00000001 ffff"+s)), metadata(2))
	}
	one := batch("hello")
	return []script{
		anonymous("acks 0", produceTo(9, 0, topic, one, 1), produceTo(3, 0, topic, one, 2), metadata(3)),
		anonymous("acks 1", produceTo(9, 1, topic, one, 1), metadata(2)),
		anonymous("acks -1", produceTo(3, -1, topic, one, 1), metadata(2)),
		anonymous("acks 7", produceTo(9, 7, topic, one, 1), metadata(2)),
		v3("acks 256", "ffff 0100 00000000 00000000"),
		v3("acks 0, no topics, bytes behind the body", "ffff 0000 00000000 00000000 0102"),
		v3("acks 0, cut", "ffff 0000 00000000 00000001"),
		v3("acks cut", "ffff 00"),
		fails(anonymous("acks 0, unknown topic", produceTo(9, 0, "unknown", one, 1), metadata(2))),
		fails(anonymous("acks 1, unknown topic, null records", produceTo(9, 1, "unknown", nil, 1), metadata(2))),
		fails(anonymous("acks 0, no batch", produceTo(9, 0, topic, []byte{}, 1), metadata(2))),
		anonymous("acks 0, null records", produceTo(9, 0, topic, nil, 1), metadata(2)),
		anonymous("acks 1, null records", produceTo(9, 1, topic, nil, 1), metadata(2)),
		v3("transactional id -2", "fffe 0000 00000000 00000000"),
		id("null", "00"),
		id("-2, compact", "ffffffff0f"),
		id("null by lost bits", "8080808010"),
		id("of a length that wraps", "8080808008"),
		id("overlong", "8200 61"),
	}
}

// everyRequest has a request for each key and version that kmsg knows, with another behind it. Each
// must be answered once, and in order.
func everyRequest() (all []script) {
	for key := range int16(kmsg.MaxKey + 1) {
		switch kmsg.Key(key) {
		case kmsg.UnregisterBroker, kmsg.AddRaftVoter, kmsg.RemoveRaftVoter:
			continue // would change the cluster
		}
		last := kmsg.RequestForKey(key).MaxVersion()
		for version := range last + 1 {
			r := kmsg.RequestForKey(key)
			r.SetVersion(version)
			if r, ok := r.(*kmsg.DescribeACLsRequest); ok { // brokers refuse the default as malformed
				r.ResourceType, r.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
				r.Operation, r.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
			}
			name := fmt.Sprintf("%s %d", kmsg.NameForKey(key), version)
			all = append(all, anonymous(name, encode(r, 1), metadata(2)))
		}
	}
	return all
}

func handshakeScripts() []script {
	v0, token := handshake(0, "PLAIN", 90), withLength([]byte(plainToken))
	spelled := func(name, s string) script {
		return login(name, withLength(digits(s)), token, authenticate(1, plainToken, 2), metadata(3))
	}
	return []script{
		login("token first", token, metadata(1)),
		spelled("GSSAPI token first", "60 82 02 01 06 09 2a 86 48 86 f7 12 01 02 02"),
		login("Metadata first", metadata(1)),
		login("SaslAuthenticate first", authenticate(1, plainToken, 1)),
		login("ApiVersions, then SaslHandshake", versions(3, 1), v0, token, metadata(2)),
		login("ApiVersions twice", versions(3, 1), versions(3, 2)),
		login("ApiVersions not supported, more than once", versions(9, 1), versions(9, 3), versions(0, 4), v0),
		login("ApiVersions not supported, after one", versions(3, 1), versions(9, 2)),
		login("ApiVersions with a bad name", withLength(digits("0012 0003 00000001 ffff 00 02 2d 02 31 00")), versions(3, 2), v0, token, metadata(3)),
		login("SaslHandshake, mechanism not offered", handshake(0, "NTLM", 1), metadata(2)),
		login("SaslHandshake 1, mechanism not offered", handshake(1, "plain", 1), metadata(2)),
		spelled("SaslHandshake 2", "0011 0002 00000001 ffff 0005 504c41494e"),
		spelled("SaslHandshake 32767", "0011 7fff 00000001 ffff 0005 504c41494e"),
		spelled("SaslHandshake -1", "0011 ffff 00000001 ffff 0005 504c41494e"),
		spelled("SaslHandshake null", "0011 0000 00000001 ffff ffff"),
		spelled("SaslHandshake cut", "0011 0000 00000001 ffff 0005 504c4149"),
		login("SaslHandshake with bytes behind the body", withLength(digits("0011 0000 00000001 ffff 0005 504c41494e 000102")), token, metadata(3)),
	}
}

// tokenScripts send raw tokens after SaslHandshake v0.
func tokenScripts() []script {
	v0, token := handshake(0, "PLAIN", 90), withLength([]byte(plainToken))
	scram, oauth := handshake(0, "SCRAM-SHA-256", 90), handshake(0, "OAUTHBEARER", 90)
	good, bad := withLength([]byte(bearer(unsecuredToken()))), withLength([]byte(bearer("none")))
	large := make([]byte, 0x80001) // over the limit before authentication
	copy(large, digits("0003 0001 00000001 ffff 00000000"))
	return []script{
		login("PLAIN", v0, token, metadata(1), metadata(2)),
		login("PLAIN, a second token", v0, token, token),
		login("PLAIN, wrong", v0, withLength([]byte("\x00alice\x00wrong")), metadata(1)),
		login("PLAIN, empty token", v0, withLength(nil), metadata(1)),
		login("PLAIN, SaslAuthenticate instead", v0, authenticate(0, plainToken, 1), metadata(2)),
		login("PLAIN, SaslHandshake instead", v0, v0, token),
		login("PLAIN, token over the limit", v0, digits("00080001")),
		login("PLAIN, SaslHandshake after", v0, token, v0, metadata(1), handshake(1, "PLAIN", 2), authenticate(2, "x", 3), metadata(4)),
		login("PLAIN, a large request after", v0, token, withLength(large), metadata(2)),
		scramScript("SCRAM", metadata(9), 0),
		scramScript("SCRAM, a third token", withLength([]byte("c=biws,r=wrong,p=AAAA")), 0),
		login("SCRAM, wrong", scram, withLength([]byte("n,,n=bob,r=abc")), withLength([]byte("c=biws,r=wrong,p=AAAA")), metadata(2)),
		login("SCRAM, unknown user", scram, withLength([]byte("n,,n=eve,r=abc")), metadata(2)),
		login("OAUTHBEARER", oauth, good, metadata(2)),
		login("OAUTHBEARER, wrong", oauth, bad, withLength([]byte{1}), metadata(2)),
		login("OAUTHBEARER, wrong three times, then right", oauth, bad, bad, bad, good, metadata(2)),
	}
}

// framedTokenScripts send tokens in SaslAuthenticate, after SaslHandshake v1.
func framedTokenScripts(topic string) []script {
	v1, oauth := handshake(1, "PLAIN", 90), handshake(1, "OAUTHBEARER", 90)
	good, bad := authenticate(1, bearer(unsecuredToken()), 91), authenticate(1, bearer("none"), 91)
	instead := func(name string, request []byte) script { return login("PLAIN v1, "+name, v1, request, metadata(3)) }
	return []script{
		login("PLAIN v1", v1, authenticate(0, plainToken, 2), metadata(3)),
		login("PLAIN v1, SaslAuthenticate 2", v1, authenticate(2, plainToken, 2), metadata(3)),
		login("PLAIN v1, all after", v1, authenticate(1, plainToken, 2), handshake(0, "PLAIN", 3), authenticate(1, plainToken, 4), authenticate(3, plainToken, 5)),
		instead("SaslAuthenticate 3", authenticate(3, plainToken, 2)),
		instead("wrong", authenticate(1, "\x00alice\x00wrong", 2)),
		instead("token as it is", withLength([]byte(plainToken))),
		instead("null", withLength(digits("0024 0000 00000002 ffff ffffffff"))),
		instead("Metadata", metadata(2)),
		instead("Metadata 14", withLength(digits("0003 000e 00000001 ffff 00 01 00 00 00"))),
		instead("ApiVersions", versions(3, 2)),
		instead("ApiVersions 9", versions(9, 2)),
		instead("SaslHandshake", handshake(1, "PLAIN", 2)),
		instead("SaslHandshake 7", withLength(digits("0011 0007 00000002 ffff 0005 504c41494e"))),
		instead("Produce, acks 0", produceTo(9, 0, topic, batch("hello"), 2)),
		instead("Produce, acks 1", produceTo(9, 1, topic, batch("hello"), 2)),
		instead("Produce, acks 1, null records", produceTo(9, 1, topic, nil, 2)),
		instead("removed key", withLength(digits("0007 0000 00000001"))),
		instead("key for controllers", encode(kmsg.NewPtrVoteRequest(), 2)),
		scramScript("SCRAM v1", metadata(9), 1),
		login("SCRAM v1, wrong", handshake(1, "SCRAM-SHA-256", 1), authenticate(1, "n,,n=bob,r=abc", 2), authenticate(1, "c=biws,r=wrong,p=AAAA", 3), metadata(4)),
		login("OAUTHBEARER v1, wrong", oauth, bad, authenticate(1, "\x01", 3), metadata(4)),
		login("OAUTHBEARER v1, wrong, then right", oauth, bad, good, metadata(4)),
	}
}

// againScripts reauthenticate, by the mechanism whose sessions expire.
func againScripts() []script {
	behind := func(name string, frames ...[]byte) script {
		return again(scramScript("again, "+name, slices.Concat(frames...), 0))
	}
	oauth, good := handshake(1, "OAUTHBEARER", 1), bearer(unsecuredToken())
	return []script{
		again(scramScript("again with tokens as they are", metadata(9), 1, 0)),
		again(scramScript("again with tokens in requests", metadata(9), 0, 1)),
		behind("by another mechanism", handshake(1, "SCRAM-SHA-256", 3), metadata(4)),
		behind("by one that is not offered", handshake(1, "NTLM", 3), metadata(4)),
		behind("SaslHandshake null", withLength(digits("0011 0000 00000003 ffff ffff")), metadata(4)),
		behind("SaslHandshake 2", withLength(digits("0011 0002 00000003 ffff 000d 534352414d2d5348412d353132")), metadata(4)),
		behind("request as token", handshake(0, "SCRAM-SHA-512", 3), metadata(4)),
		behind("request instead of token", handshake(1, "SCRAM-SHA-512", 3), metadata(4)),
		behind("length over the limit", handshake(1, "SCRAM-SHA-512", 3), digits("00080001")),
		again(login("again by OAUTHBEARER", oauth, authenticate(1, good, 2), metadata(3), handshake(0, "OAUTHBEARER", 4), withLength([]byte(good)), metadata(5))),
	}
}

// scramScript authenticates by SCRAM-SHA-512, once per version of SaslHandshake, and then sends
// more.
func scramScript(name string, more []byte, versions ...int16) script {
	const mechanism = "SCRAM-SHA-512"
	s := script{name: name, sasl: true}
	for i, version := range versions {
		session, first, err := logins[mechanism].Authenticate(context.Background(), "")
		if err != nil {
			panic(err)
		}
		wrap := withLength
		if version > 0 {
			wrap = func(b []byte) []byte { return authenticate(1, string(b), 91) }
		}
		rest := metadata(int32(92 + i))
		if i == len(versions)-1 {
			rest = more
		}
		s.flights = append(s.flights, once(handshake(version, mechanism, 90), wrap(first)), func(last []byte) []byte {
			_, final, err := session.Challenge(last)
			if err != nil {
				final = []byte(err.Error())
			}
			return slices.Concat(wrap(final), rest)
		})
	}
	return s
}

// withLength prepends the length to a frame.
func withLength(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// digits decodes hexadecimal digits, with spaces.
func digits(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// encode encodes a request without a client id.
func encode(r kmsg.Request, correlationID int32) []byte {
	return kmsg.NewRequestFormatter().AppendRequest(nil, r, correlationID)
}

// metadata returns a Metadata request without topics.
func metadata(correlationID int32) []byte {
	r := kmsg.NewPtrMetadataRequest()
	r.Version, r.Topics = 1, []kmsg.MetadataRequestTopic{}
	return encode(r, correlationID)
}

func versions(version int16, correlationID int32) []byte {
	r := kmsg.NewPtrApiVersionsRequest()
	r.Version, r.ClientSoftwareName, r.ClientSoftwareVersion = version, "culvert", "1"
	return encode(r, correlationID)
}

func handshake(version int16, mechanism string, correlationID int32) []byte {
	r := kmsg.NewPtrSASLHandshakeRequest()
	r.Version, r.Mechanism = version, mechanism
	return encode(r, correlationID)
}

func authenticate(version int16, token string, correlationID int32) []byte {
	r := kmsg.NewPtrSASLAuthenticateRequest()
	r.Version, r.SASLAuthBytes = version, []byte(token)
	return encode(r, correlationID)
}

// produceTo produces to partition 0 of a topic.
func produceTo(version, acks int16, topic string, records []byte, correlationID int32) []byte {
	r := kmsg.NewPtrProduceRequest()
	r.Version, r.Acks, r.TimeoutMillis = version, acks, 5000
	partition := kmsg.NewProduceRequestTopicPartition()
	partition.Records = records
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.Partitions = topic, []kmsg.ProduceRequestTopicPartition{partition}
	r.Topics = []kmsg.ProduceRequestTopic{t}
	return encode(r, correlationID)
}
