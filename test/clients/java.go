package clients

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/culvert-proxy/culvert/test/cache"
)

// Java are versions of the Java client: the oldest that Kafka 4 documents, the last of Kafka 3, and
// the newest, which checks the broker that it connects to (KIP-1242).
var Java = []Client{
	{Name: "kafka-clients 2.1.1", install: java, argv: javaClass("2.1.1")},
	{Name: "kafka-clients 3.9.2", install: java, argv: javaClass("3.9.2")},
	{Name: "kafka-clients 4.4.0", install: java, argv: javaClass("4.4.0"), Options: []string{"group.protocol=consumer"}},
}

// beside are other jars that the client needs. Jackson is for OAUTHBEARER, where the client parses
// JSON.
var beside = []struct{ group, artifact, version string }{
	{"org.slf4j", "slf4j-api", "1.7.36"},
	{"org.slf4j", "slf4j-nop", "1.7.36"},
	{"com.fasterxml.jackson.core", "jackson-core", "2.21.2"},
	{"com.fasterxml.jackson.core", "jackson-databind", "2.21.2"},
	{"com.fasterxml.jackson.core", "jackson-annotations", "2.21"},
}

var javaVersions = []string{"2.1.1", "3.9.2", "4.4.0"}

// java installs the jars of all versions in one folder and compiles the program against the oldest.
func java(ctx context.Context) (string, error) {
	source, err := sources()
	if err != nil {
		return "", err
	}
	file := filepath.Join(source, "java", "RoundTrip.java")
	program, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	pom := javaPOM()
	return cache.Get("java", pom+string(program), func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "pom.xml"), []byte(pom), 0o644); err != nil {
			return err
		}
		if err := run(ctx, dir, "mvn", "-B", "-q", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy", "-DoutputDirectory="+dir); err != nil {
			return err
		}
		return run(ctx, dir, "javac", "-d", dir, "-cp", clientJar(dir, javaVersions[0]), file)
	})
}

func clientJar(dir, version string) string {
	return filepath.Join(dir, "kafka-clients-"+version+".jar")
}

func javaClass(version string) func(string, string) []string {
	return func(_, dir string) []string {
		path := []string{dir, clientJar(dir, version)}
		for _, a := range beside {
			path = append(path, filepath.Join(dir, a.artifact+"-"+a.version+".jar"))
		}
		return []string{"java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m", "-cp", strings.Join(path, string(filepath.ListSeparator)), "RoundTrip"}
	}
}

// javaPOM copies several versions of one artifact, which dependencies cannot.
func javaPOM() string {
	var items strings.Builder
	item := func(group, artifact, version string) {
		fmt.Fprintf(&items, "<artifactItem><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></artifactItem>\n", group, artifact, version)
	}
	for _, version := range javaVersions {
		item("org.apache.kafka", "kafka-clients", version)
	}
	for _, a := range beside {
		item(a.group, a.artifact, a.version)
	}
	return `<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>culvert.test</groupId><artifactId>clients</artifactId><version>1</version><packaging>pom</packaging>
<build><plugins><plugin>
<groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version>
<configuration><artifactItems>
` + items.String() + `</artifactItems></configuration>
</plugin></plugins></build>
</project>
`
}
