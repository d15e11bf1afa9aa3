package kafka

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

// RegistryVersion is that of Apicurio Registry: the newest that Java 17 runs.
const RegistryVersion = "3.0.9"

// Registry is the command that runs Apicurio Registry, a schema registry whose API Confluent's
// clients can use too, on a port of 127.0.0.1. It keeps everything in memory.
func Registry(ctx context.Context, port int) (*exec.Cmd, error) {
	artifact := fmt.Sprintf("io.apicurio:apicurio-registry-app:%s:tar.gz:all", RegistryVersion)
	dir, err := cache.Get("apicurio-"+RegistryVersion, artifact, func(dir string) error { return unpack(ctx, dir, artifact) })
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-jar", filepath.Join(dir, "apicurio-registry-app-"+RegistryVersion+"-runner.jar"))
	cmd.Env = append(os.Environ(), "QUARKUS_HTTP_HOST=127.0.0.1", fmt.Sprintf("QUARKUS_HTTP_PORT=%d", port))
	return cmd, nil
}

// unpack unpacks an archive that Maven gets.
func unpack(ctx context.Context, dir, artifact string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	get := exec.Command("mvn", "-B", "-q", "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy", "-Dartifact="+artifact, "-DoutputDirectory="+dir)
	if _, err := proc.Run(ctx, get); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	if err != nil || len(archives) != 1 {
		return fmt.Errorf("maven copied %q, %w", archives, err)
	}
	if _, err := proc.Run(ctx, exec.Command("tar", "-xzf", archives[0], "-C", dir)); err != nil {
		return err
	}
	return os.Remove(archives[0])
}

// InstallAvro installs Kafka's client with the Avro serializers of Apicurio Registry through Maven,
// and compiles a Java program against them. The program's class is in no package.
func InstallAvro(ctx context.Context, program string) (*Ecosystem, error) {
	return installProgram(ctx, "avro", strings.ReplaceAll(avroPOM, "VERSION", Version), program)
}

// avroPOM has the newest serializers that can be had. They speak the registry's API v2.
const avroPOM = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>culvert.test</groupId><artifactId>avro</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-clients</artifactId><version>VERSION</version></dependency>
    <dependency><groupId>io.apicurio</groupId><artifactId>apicurio-registry-serdes-avro-serde</artifactId><version>2.6.13.Final</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
`
