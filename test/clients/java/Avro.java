import io.apicurio.registry.serde.SerdeConfig;
import io.apicurio.registry.serde.avro.AvroKafkaDeserializer;
import io.apicurio.registry.serde.avro.AvroKafkaSerializer;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Writes records in Avro, whose schema it registers, and reads them with the schema that it gets.
 *
 * <p>usage: Avro BOOTSTRAP TOPIC REGISTRY COUNT
 */
public class Avro {
  static final Schema SCHEMA = new Schema.Parser().parse(
      "{\"type\":\"record\",\"name\":\"Reading\",\"fields\":[{\"name\":\"number\",\"type\":\"int\"}]}");

  public static void main(String[] args) throws Exception {
    String topic = args[1];
    int count = Integer.parseInt(args[3]);
    Map<String, Object> settings = new HashMap<>(Map.of(
        "bootstrap.servers", args[0],
        SerdeConfig.REGISTRY_URL, args[2] + "/apis/registry/v2",
        SerdeConfig.AUTO_REGISTER_ARTIFACT, true,
        "group.id", topic,
        "auto.offset.reset", "earliest",
        "key.serializer", StringSerializer.class.getName(),
        "value.serializer", AvroKafkaSerializer.class.getName(),
        "key.deserializer", StringDeserializer.class.getName(),
        "value.deserializer", AvroKafkaDeserializer.class.getName()));
    try (KafkaProducer<String, GenericRecord> producer = new KafkaProducer<>(settings)) {
      for (int n = 0; n < count; n++) {
        GenericRecord reading = new GenericData.Record(SCHEMA);
        reading.put("number", n);
        producer.send(new ProducerRecord<>(topic, 0, "key", reading)).get();
      }
    }
    int next = 0;
    try (KafkaConsumer<String, GenericRecord> consumer = new KafkaConsumer<>(settings)) {
      consumer.subscribe(List.of(topic));
      for (long end = System.nanoTime() + Duration.ofSeconds(60).toNanos(); next < count && System.nanoTime() < end; ) {
        for (var record : consumer.poll(Duration.ofSeconds(1))) {
          if ((int) record.value().get("number") == next) {
            next++;
          }
        }
      }
    }
    System.out.println((next == count ? "ok: " : "only ") + next + " records");
    System.exit(next == count ? 0 : 1);
  }
}
