package protocol

import "github.com/twmb/franz-go/pkg/kmsg"

// APIKey says which request a frame is (Kafka's ApiKeys.java).
type APIKey int16

// The API keys that a proxy reads or changes.
const (
	Produce          APIKey = 0
	Fetch            APIKey = 1
	Metadata         APIKey = 3
	FindCoordinator  APIKey = 10
	JoinGroup        APIKey = 11
	SyncGroup        APIKey = 14
	SASLHandshake    APIKey = 17
	APIVersions      APIKey = 18
	SASLAuthenticate APIKey = 36
	DescribeQuorum   APIKey = 55
	DescribeCluster  APIKey = 60
	ShareFetch       APIKey = 78
	ShareAcknowledge APIKey = 79
)

// MaxKey is the highest API key that kmsg, our schema, knows.
const MaxKey APIKey = kmsg.MaxKey

// schema holds what kmsg knows of each API key.
var schema = readSchema()

type keySchema struct {
	name         string
	maxVersion   int16
	flexibleFrom int16 // the first flexible version (KIP-482); one past maxVersion if there is none
}

func readSchema() (keys [MaxKey + 1]keySchema) {
	for k := range keys {
		r := kmsg.RequestForKey(int16(k))
		s := keySchema{name: kmsg.NameForKey(int16(k)), maxVersion: r.MaxVersion()}
		for s.flexibleFrom <= s.maxVersion {
			r.SetVersion(s.flexibleFrom)
			if r.IsFlexible() {
				break
			}
			s.flexibleFrom++
		}
		keys[k] = s
	}
	for k, name := range kafkaNames {
		keys[k].name = name
	}
	return keys
}

// kafkaNames are the names in ApiKeys.java, as brokers have them in their own metrics, where kmsg
// has others.
var kafkaNames = map[APIKey]string{
	4:  "LeaderAndIsr",
	17: "SaslHandshake",
	22: "InitProducerId",
	29: "DescribeAcls",
	30: "CreateAcls",
	31: "DeleteAcls",
	36: "SaslAuthenticate",
	45: "AlterPartitionReassignments",
	50: "DescribeUserScramCredentials",
	51: "AlterUserScramCredentials",
	67: "AllocateProducerIds",
}

// Known reports whether k is one of Kafka's own API keys up to [MaxKey].
func (k APIKey) Known() bool { return k >= 0 && k <= MaxKey }

// String returns Kafka's name of the key, or "unknown": a peer cannot make up names.
func (k APIKey) String() string {
	if !k.Known() {
		return "unknown"
	}
	return schema[k].name
}

// LongPoll reports whether brokers hold requests of this key on purpose: until there are records, or
// until the members of a group have come.
func (k APIKey) LongPoll() bool {
	return k == Fetch || k == ShareFetch || k == JoinGroup || k == SyncGroup
}

// MaxVersion returns the newest version of the API that the schema knows, or -1 for an unknown key.
func (k APIKey) MaxVersion() int16 {
	if !k.Known() {
		return -1
	}
	return schema[k].maxVersion
}

// Flexible reports whether requests of this version have tagged fields (KIP-482). Versions newer
// than the schema count as the newest known one.
func (k APIKey) Flexible(version int16) bool {
	return k.Known() && version >= schema[k].flexibleFrom
}

// FlexibleResponseHeader reports whether the header of the response to this version ends with
// tagged fields. ApiVersions never does, so that a client can read the answer to a version that the
// broker does not know (KIP-511).
func (k APIKey) FlexibleResponseHeader(version int16) bool {
	return k != APIVersions && k.Flexible(version)
}
