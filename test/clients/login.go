package clients

import "slices"

// Mechanisms are the SASL mechanisms of the brokers of package kafka.
var Mechanisms = []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"}

// TLS names the PEM files of a client that speaks TLS and is asked for a certificate.
type TLS struct{ CA, Cert, Key, CertAndKey string }

// LogIn returns the Java client and librdkafka, which most other clients are based on. They log in
// by a mechanism over TLS.
func (files TLS) LogIn(mechanism string) []Client {
	java, librdkafka := Java[len(Java)-1], Clients[0]
	java.Options = slices.Concat(java.Options, []string{
		"security.protocol=SASL_SSL", "sasl.mechanism=" + mechanism, "sasl.jaas.config=" + jaas[mechanism],
		"ssl.truststore.type=PEM", "ssl.truststore.location=" + files.CA, "ssl.keystore.type=PEM", "ssl.keystore.location=" + files.CertAndKey,
	})
	librdkafka.Options = slices.Concat(librdkafka.Options, []string{
		"security.protocol=SASL_SSL", "sasl.mechanism=" + mechanism,
		"ssl.ca.location=" + files.CA, "ssl.certificate.location=" + files.Cert, "ssl.key.location=" + files.Key,
	}, rdkafka[mechanism])
	return []Client{java, librdkafka}
}

// WithoutLogin returns clients that speak TLS, show a certificate and do not log in: of Java,
// librdkafka and kafkajs.
func (files TLS) WithoutLogin() []Client {
	older, newest, librdkafka, kafkajs := Java[len(Java)-2], Java[len(Java)-1], Clients[0], Clients[5]
	for _, java := range []*Client{&older, &newest} {
		java.Options = slices.Concat(java.Options, []string{"security.protocol=SSL",
			"ssl.truststore.type=PEM", "ssl.truststore.location=" + files.CA, "ssl.keystore.type=PEM", "ssl.keystore.location=" + files.CertAndKey})
	}
	librdkafka.Options = []string{"security.protocol=SSL", "ssl.ca.location=" + files.CA, "ssl.certificate.location=" + files.Cert, "ssl.key.location=" + files.Key}
	kafkajs.Options = []string{"ca=" + files.CA, "cert=" + files.Cert, "key=" + files.Key}
	return []Client{older, newest, librdkafka, kafkajs}
}

// LogInV0 returns a client that logs in as before Kafka 1.0, over TLS.
func (files TLS) LogInV0() Client {
	c := SASLv0[0]
	c.Options = append(slices.Clone(c.Options[1:]), "security_protocol=SASL_SSL",
		"ssl_cafile="+files.CA, "ssl_certfile="+files.Cert, "ssl_keyfile="+files.Key)
	return c
}

// jaas and rdkafka configure the user: see kafka.Cluster.SASL.
var (
	jaas = map[string]string{
		"PLAIN":         `org.apache.kafka.common.security.plain.PlainLoginModule required username="alice" password="alice-secret";`,
		"SCRAM-SHA-256": `org.apache.kafka.common.security.scram.ScramLoginModule required username="bob" password="bob-secret";`,
		"SCRAM-SHA-512": `org.apache.kafka.common.security.scram.ScramLoginModule required username="bob" password="bob-secret";`,
		"OAUTHBEARER":   `org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="carol";`,
	}
	rdkafka = map[string][]string{
		"PLAIN":         {"sasl.username=alice", "sasl.password=alice-secret"},
		"SCRAM-SHA-256": {"sasl.username=bob", "sasl.password=bob-secret"},
		"SCRAM-SHA-512": {"sasl.username=bob", "sasl.password=bob-secret"},
		"OAUTHBEARER":   {"enable.sasl.oauthbearer.unsecure.jwt=true", "sasl.oauthbearer.config=principal=carol"},
	}
)
