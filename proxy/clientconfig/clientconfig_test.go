package clientconfig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/culvert-proxy/culvert/proxy/internal/testca"
)

// The examples of java.util.Properties, and what its description says beyond them.
func TestPropertiesAreReadAsJavaDoes(t *testing.T) {
	for file, want := range map[string]Properties{
		"Truth = Beauty\n Truth1:Beauty\nTruth2         :Beauty": {"Truth": "Beauty", "Truth1": "Beauty", "Truth2": "Beauty"},
		"fruits    apple, banana, pear, \\\n   cantaloupe, \\\n   kiwi, mango\n": {
			"fruits": "apple, banana, pear, cantaloupe, kiwi, mango"},
		"cheeses":                             {"cheeses": ""},
		"# a comment \\\na=1\r! another\rb=2": {"a": "1", "b": "2"},
		`a\ b\:\=c=d\\e`:                      {"a b:=c": `d\e`},
		"a=\\u00e9\\t\\q\\":                   {"a": "é\tq"},
		"a=\xe9":                              {"a": "é"},
		"a=b\\\n\nc=d":                        {"a": "b", "c": "d"},
		"a=b\\\\\nc=d":                        {"a": `b\`, "c": "d"},
		"a=b\\\n  #c":                         {"a": "b#c"},
		"a = = b":                             {"a": "= b"},
		"a=1\na=2  ":                          {"a": "2  "},
		"":                                    {},
	} {
		if got, err := ParseProperties([]byte(file)); err != nil || !maps.Equal(got, want) {
			t.Errorf("ParseProperties(%q) = %q, %v, want %q", file, got, err, want)
		}
	}
	for _, file := range []string{`secret=\u12`, "\n\nsecret=\\u12g4"} {
		if _, err := ParseProperties([]byte(file)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("ParseProperties(%q): %v", file, err)
		}
	}
}

// What a file says does not change when it is written with other escapes.
func FuzzProperties(f *testing.F) {
	f.Add("sasl.jaas.config", `org.apache.X required password="a\"b";`)
	f.Add(" key:=#", "\t\n\\ value ")
	f.Fuzz(func(t *testing.T, key, value string) {
		if _, err := ParseProperties([]byte(key + "=" + value)); err != nil && len(err.Error()) > 100 {
			t.Errorf("the error holds parts of the file: %v", err)
		}
		want := Properties{fromLatin(key): fromLatin(value)}
		file := escapeAll(key) + " : " + escapeAll(value) + "\n"
		if got, err := ParseProperties([]byte(file)); err != nil || !maps.Equal(got, want) {
			t.Errorf("ParseProperties(%q) = %q, %v, want %q", file, got, err, want)
		}
	})
}

func fromLatin(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}

func escapeAll(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, `\u%04x`, c)
	}
	return b.String()
}

func TestJAASIsReadAsKafkaDoes(t *testing.T) {
	for text, want := range map[string]login{
		`a.b.PlainLoginModule required username="alice" password="a\"l;ice\\";`: {"a.b.PlainLoginModule", map[string]string{"username": "alice", "password": `a"l;ice\`}},
		"M REQUIRED\n  a=b c='d e' // f=g\n /* h */ i=\"\\101\" ; ":             {"M", map[string]string{"a": "b", "c": "d e", "i": "A"}},
		"M optional;": {"M", map[string]string{}},
	} {
		if got, err := parseJAAS(text); err != nil || got.module != want.module || !maps.Equal(got.options, want.options) {
			t.Errorf("parseJAAS(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "M", "M perhaps a=b;", "M required a=b", `M required password=1secret;`, "M required password secret;", "M required password=;",
		"M required =secret;", "M required a=b; M2 required secret=x;", `M required password="secret`,
	} {
		if _, err := parseJAAS(text); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("parseJAAS(%q): %v", text, err)
		}
	}
}

// Any value is read as it is if it is quoted.
func FuzzJAAS(f *testing.F) {
	f.Add(`pass"word\`)
	f.Fuzz(func(t *testing.T, value string) {
		parseJAAS(value)
		var quoted strings.Builder
		for _, c := range []byte(value) {
			if c == '\n' || c == '\r' { // ends a string
				continue
			}
			if c == '"' || c == '\\' {
				quoted.WriteByte('\\')
			}
			quoted.WriteByte(c)
		}
		want := strings.NewReplacer("\n", "", "\r", "").Replace(value)
		got, err := parseJAAS(`M required password="` + quoted.String() + `";`)
		if err != nil || got.options["password"] != want {
			t.Errorf("password %q = %q, %v", value, got.options["password"], err)
		}
	})
}

// read reads a file with these lines.
func read(t *testing.T, lines ...string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.properties")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(file)
}

const kafkaSecurity = "org.apache.kafka.common.security."

func TestLogins(t *testing.T) {
	for mechanism, jaas := range map[string]string{
		"PLAIN":         kafkaSecurity + `plain.PlainLoginModule required username="alice" password="secret";`,
		"SCRAM-SHA-256": kafkaSecurity + `scram.ScramLoginModule required username="bob" password="secret" tokenauth="true";`,
		"SCRAM-SHA-512": kafkaSecurity + `scram.ScramLoginModule required username="bob" password="secret";`,
		"OAUTHBEARER":   kafkaSecurity + `oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="carol" unsecuredLoginListClaim_scope=",a,b";`,
	} {
		c, err := read(t, "security.protocol=sasl_plaintext", "sasl.mechanism="+mechanism, "sasl.jaas.config="+jaas)
		if err != nil || c.SASL == nil || c.SASL.Name() != mechanism || c.TLS != nil || c.Unsupported != nil {
			t.Errorf("%s: %+v, %v", mechanism, c, err)
			continue
		}
		_, first, err := c.SASL.Authenticate(t.Context(), "broker:9092")
		if err != nil || mechanism == "PLAIN" && string(first) != "\x00alice\x00secret" {
			t.Errorf("%s sends %q, %v", mechanism, first, err)
		}
		if mechanism == "OAUTHBEARER" {
			_, token, _ := strings.Cut(string(first), "Bearer ")
			part := strings.Split(token, ".")
			if claims, _ := base64.RawURLEncoding.DecodeString(part[1]); !strings.Contains(string(claims), `"scope":["a","b"],"sub":"carol"`) {
				t.Errorf("claims %s", claims)
			}
		}
	}
}

// A client gets its token from an identity provider, with its id and its secret.
func TestATokenIsFetchedWithClientCredentials(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, secret, _ := r.BasicAuth(); id != "me" || secret != "s3cr3t" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "kafka" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"access_token":"the-token"}`)
	}))
	defer s.Close()
	for secret, want := range map[string]string{"s3cr3t": "Bearer the-token", "wrong": ""} {
		c, err := read(t, "security.protocol=SASL_PLAINTEXT", "sasl.mechanism=OAUTHBEARER", "sasl.oauthbearer.token.endpoint.url="+s.URL,
			"sasl.login.callback.handler.class="+kafkaSecurity+"oauthbearer.OAuthBearerLoginCallbackHandler",
			"sasl.jaas.config="+kafkaSecurity+`oauthbearer.OAuthBearerLoginModule required clientId="me" clientSecret="`+secret+`" scope="kafka";`)
		if err != nil || c.SASL == nil {
			t.Fatalf("%+v, %v", c, err)
		}
		_, first, err := c.SASL.Authenticate(context.Background(), "broker:9092")
		if !strings.Contains(string(first), want) || (want == "") != (err != nil) || err != nil && strings.Contains(err.Error(), "wrong") {
			t.Errorf("%q, %v, want %q", first, err, want)
		}
	}
}

// What a Java client refuses is an error, without the secrets of the file.
func TestFilesThatAreWrong(t *testing.T) {
	plain := kafkaSecurity + `plain.PlainLoginModule required username="alice" password="secret"`
	for says, lines := range map[string][]string{
		"no such protocol":            {"security.protocol=TLS"},
		"librdkafka":                  {"security.protocol=SASL_SSL", "sasl.username=alice", "sasl.password=secret"},
		"sasl.jaas.config is missing": {"security.protocol=SASL_SSL", "sasl.mechanism=PLAIN"},
		"semicolon":                   {"security.protocol=SASL_SSL", "sasl.mechanism=PLAIN", "sasl.jaas.config=" + plain},
		"needs ScramLoginModule":      {"security.protocol=SASL_SSL", "sasl.mechanism=SCRAM-SHA-256", "sasl.jaas.config=" + plain + ";"},
		"no username":                 {"security.protocol=SASL_SSL", "sasl.mechanism=PLAIN", "sasl.jaas.config=PlainLoginModule required password=\"secret\";"},
		"no such file":                {"security.protocol=SSL", "ssl.truststore.type=PEM", "ssl.truststore.location=/secret-less/ca.pem"},
		"no certificate in PEM":       {"security.protocol=SSL", "ssl.truststore.certificates=secret"},
		"principal":                   {"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=OAUTHBEARER", "sasl.jaas.config=OAuthBearerLoginModule required x=\"secret\";"},
	} {
		c, err := read(t, lines...)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\"secret") {
			t.Errorf("%q: %+v, %v, want %q", lines, c, err, says)
		}
	}
}

// What is not supported is named, and not left out in silence.
func TestWhatIsNotSupportedIsNamed(t *testing.T) {
	jks := filepath.Join(t.TempDir(), "trust.jks")
	if err := os.WriteFile(jks, []byte(jksMagic+"\x00\x00\x00\x02"), 0o600); err != nil {
		t.Fatal(err)
	}
	for says, lines := range map[string][]string{
		"GSSAPI":          {"security.protocol=SASL_PLAINTEXT"},
		"AWS_MSK_IAM":     {"security.protocol=SASL_SSL", "sasl.mechanism=AWS_MSK_IAM"},
		"login module":    {"security.protocol=SASL_SSL", "sasl.mechanism=PLAIN", "sasl.jaas.config=com.example.Mine required;"},
		"callback":        {"security.protocol=SASL_SSL", "sasl.mechanism=OAUTHBEARER", "sasl.login.callback.handler.class=com.example.Mine", "sasl.jaas.config=OAuthBearerLoginModule required;"},
		"format JKS":      {"security.protocol=SSL", "ssl.truststore.location=" + jks},
		"engine":          {"security.protocol=SSL", "ssl.engine.factory.class=com.example.Mine"},
		"config provider": {"security.protocol=SASL_SSL", "config.providers=file", "sasl.jaas.config=${file:/secrets:jaas}"},
	} {
		c, err := read(t, lines...)
		if err != nil || !strings.Contains(strings.Join(c.Unsupported, "; "), says) || c.SASL != nil || c.SpeaksTLS() && strings.Contains(lines[len(lines)-1], "ssl.") && c.TLS != nil {
			t.Errorf("%q: %+v, %v, want %q", lines, c, err, says)
		}
	}
	c, err := read(t, "bootstrap.servers=kafka:9092", "acks=all")
	if err != nil || c.Protocol != "PLAINTEXT" || c.TLS != nil || c.SASL != nil || c.Unsupported != nil {
		t.Errorf("%+v, %v", c, err)
	}
}

// Truststores and keystores in PEM and in PKCS12, as keytool writes it.
func TestStores(t *testing.T) {
	dir := t.TempDir()
	ca := testca.New(t, "clients")
	certPEM, keyPEM := ca.Pair(t, "client")
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{ca.Cert}, "changeit")
	if err != nil {
		t.Fatal(err)
	}
	own, err := pkcs12.Modern.Encode(pair.PrivateKey, pair.Leaf, nil, "changeit")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"trust.p12": trust, "own.p12": own, "ca.pem": []byte(ca.PEM()), "own.pem": []byte(keyPEM + certPEM)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pem := []string{"security.protocol=SSL", "ssl.truststore.type=PEM", "ssl.truststore.location=" + dir + "/ca.pem",
		"ssl.keystore.type=PEM", "ssl.keystore.location=" + dir + "/own.pem"}
	lines := []string{"security.protocol=SSL", "ssl.truststore.location=" + dir + "/trust.p12", "ssl.truststore.password=changeit",
		"ssl.keystore.location=" + dir + "/own.p12", "ssl.keystore.password=changeit"}
	for _, lines := range [][]string{pem, lines} {
		c, err := read(t, lines...)
		if err != nil || c.Unsupported != nil || c.TLS.RootCAs == nil || c.TLS.GetClientCertificate == nil {
			t.Fatalf("%+v, %v", c, err)
		}
	}
	if _, err := read(t, append(lines, "ssl.truststore.password=wrong")...); err == nil || !strings.Contains(err.Error(), "ssl.truststore.password is not that of the file") {
		t.Errorf("a wrong password: %v", err)
	}
}
