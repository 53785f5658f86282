// Drives the compiled plugin's build side without TensorRT's libraries or a GPU: the handful of symbols that it would
// find there are played here, and so are the kernels. Prints one line for each thing asked; test_cpp_plugin.py reads.
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "plugin.h"

using namespace nvinfer1;

namespace {

class PrintingLogger : public ILogger {
public:
    void log(Severity, AsciiChar const* text) noexcept override { std::printf("log %s\n", text); }
};
PrintingLogger the_logger;
vitc::AttentionParams launched{};

}  // namespace

extern "C" ILogger* getLogger() noexcept { return &the_logger; }
extern "C" IPluginRegistry* getPluginRegistry() noexcept { return nullptr; }

namespace vitc {

bool has_head_dim(int32_t head_dim) { return head_dim == 64; }
bool find_kernel(VariantKey const& key, int32_t, Kernel& kernel, std::string&) {
    kernel = Kernel{nullptr, key.tile_q, 128, 1024};
    return true;
}
cudaError_t prepare(Kernel const&) { return cudaSuccess; }
cudaError_t launch(Kernel const&, AttentionParams const& params, cudaStream_t) {
    launched = params;
    return cudaSuccess;
}

}  // namespace vitc

extern "C" {
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 166912, cudaSuccess; }
char const* cudaGetErrorString(cudaError_t) { return "an error"; }
IPluginCreatorInterface* const* getCreators(int32_t& count);
}

namespace {

struct Values {
    std::string layout = "packed", pv = "int8";
    int32_t num_heads = 3, head_dim = 64, has_bias = 0, tile_q = 64, tile_k = 32;
    std::vector<float> head_scales = {1.0f};
    int32_t causal = 0;
    float scale = 0.125f, q_scale = 0.5f, k_scale = 0.25f, v_scale = 0.125f, out_scale = 0.0625f;
};

std::vector<PluginField> fields_of(Values const& v) {
    auto const text = [](char const* n, std::string const& s) {
        return PluginField(n, s.data(), PluginFieldType::kCHAR, static_cast<int32_t>(s.size()));
    };
    auto const integer = [](char const* n, int32_t const& i) { return PluginField(n, &i, PluginFieldType::kINT32, 1); };
    auto const real = [](char const* n, float const& f) { return PluginField(n, &f, PluginFieldType::kFLOAT32, 1); };
    return {text("layout", v.layout), integer("num_heads", v.num_heads), integer("head_dim", v.head_dim),
            real("scale", v.scale), integer("has_bias", v.has_bias), integer("tile_q", v.tile_q),
            integer("tile_k", v.tile_k), text("pv", v.pv), real("q_scale", v.q_scale), real("k_scale", v.k_scale),
            real("v_scale", v.v_scale), real("out_scale", v.out_scale),
            PluginField("head_scales", v.head_scales.data(), PluginFieldType::kFLOAT32,
                        static_cast<int32_t>(v.head_scales.size())),
            PluginField("causal", &v.causal, PluginFieldType::kINT32, 1)};
}

IPluginCreatorV3One& creator() {
    int32_t count = 0;
    return *static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
}

std::unique_ptr<vitc::VitAttentionPlugin> create(std::vector<PluginField> const& fields) {
    PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
    auto* plugin = creator().createPlugin("blocks.0.attn", &collection, TensorRTPhase::kBUILD);
    return std::unique_ptr<vitc::VitAttentionPlugin>(static_cast<vitc::VitAttentionPlugin*>(plugin));
}

PluginTensorDesc tensor(DataType type, std::vector<int64_t> const& shape) {
    PluginTensorDesc desc{};
    desc.type = type;
    desc.format = TensorFormat::kLINEAR;
    desc.dims.nbDims = static_cast<int32_t>(shape.size());
    for (size_t i = 0; i < shape.size(); ++i) {
        desc.dims.d[i] = static_cast<decltype(+desc.dims.d[0])>(shape[i]);
    }
    return desc;
}

void print_support(char const* what, vitc::VitAttentionPlugin& plugin, std::vector<DataType> const& types) {
    std::vector<DynamicPluginTensorDesc> descs(types.size());
    for (size_t i = 0; i < types.size(); ++i) {
        descs[i].desc = tensor(types[i], {1, 4, 192});
    }
    std::printf("supports %s", what);
    for (size_t i = 0; i < types.size(); ++i) {
        int32_t const inputs = static_cast<int32_t>(types.size()) - 1;
        std::printf(" %d", plugin.supportsFormatCombination(static_cast<int32_t>(i), descs.data(), inputs, 1) ? 1 : 0);
    }
    std::printf("\n");
}

template <typename Change>
void refuse(Change change) {
    Values v;
    change(v);
    std::printf("created %d\n", create(fields_of(v)) != nullptr ? 1 : 0);
}

}  // namespace

int main() {
    std::printf("creator %s %s %s\n", creator().getPluginName(), creator().getPluginVersion(),
                creator().getPluginNamespace());
    PluginFieldCollection const* const names = creator().getFieldNames();
    for (int32_t i = 0; i < names->nbFields; ++i) {
        std::printf("field %s %d\n", names->fields[i].name, static_cast<int>(names->fields[i].type));
    }

    // What is serialized makes the same plugin again.
    Values const values;
    auto plugin = create(fields_of(values));
    PluginFieldCollection const* const stored = plugin->getFieldsToSerialize();
    std::vector<PluginField> copy(stored->fields, stored->fields + stored->nbFields);
    auto again = create(copy);
    vitc::AttentionFields parsed;
    std::string error;
    PluginFieldCollection const collection{static_cast<int32_t>(copy.size()), copy.data()};
    std::printf("parsed %d\n", vitc::parse_fields(collection, parsed, error) ? 1 : 0);
    std::printf("values %s %d %d %g %d %d %d %s %g %g %g %g\n", parsed.layout.c_str(), parsed.num_heads, parsed.head_dim,
                parsed.scale, parsed.has_bias, parsed.tile_q, parsed.tile_k, parsed.pv.c_str(), parsed.q_scale,
                parsed.k_scale, parsed.v_scale, parsed.out_scale);

    print_support("int8", *again, {DataType::kINT8, DataType::kINT8});
    print_support("half", *again, {DataType::kHALF, DataType::kHALF});

    Values with_bias;
    with_bias.has_bias = 1;
    with_bias.layout = "bhnd";
    with_bias.out_scale = 0.0f;
    auto biased = create(fields_of(with_bias));
    print_support("bias", *biased,
                  {DataType::kINT8, DataType::kINT8, DataType::kINT8, DataType::kFLOAT, DataType::kHALF});
    DataType type = DataType::kFLOAT;
    int32_t const got = biased->getOutputDataTypes(&type, 1, nullptr, 4);
    std::printf("output type %d status %d\n", type == DataType::kHALF ? 1 : 0, got);

    // A run: shapes, then enqueue on a clone, as TensorRT does for each execution context.
    auto context = std::unique_ptr<vitc::VitAttentionPlugin>(
        static_cast<vitc::VitAttentionPlugin*>(plugin->attachToContext(nullptr)));
    PluginTensorDesc const in = tensor(DataType::kINT8, {2, 197, 3 * 192});
    PluginTensorDesc const out = tensor(DataType::kINT8, {2, 197, 192});
    std::printf("shapes %d\n", context->onShapeChange(&in, 1, &out, 1));
    char buffer[8];
    void const* const inputs[] = {buffer};
    void* const outputs[] = {buffer + 4};
    std::printf("enqueue %d\n", context->enqueue(&in, &out, inputs, outputs, nullptr, nullptr));
    std::printf("launched %d %d %d %d %ld %ld %d %.9g %.9g\n", launched.batch, launched.heads, launched.queries,
                launched.keys, static_cast<long>(launched.q_strides.row), static_cast<long>(launched.kv_strides.batch),
                static_cast<int>(static_cast<char const*>(launched.v) - buffer), launched.logit_factors[0],
                launched.out_factors[0]);

    // Another context, with other shapes, leaves the first one's alone.
    auto other = std::unique_ptr<vitc::VitAttentionPlugin>(
        static_cast<vitc::VitAttentionPlugin*>(plugin->attachToContext(nullptr)));
    PluginTensorDesc const in_other = tensor(DataType::kINT8, {5, 50, 3 * 192});
    PluginTensorDesc const out_other = tensor(DataType::kINT8, {5, 50, 192});
    std::printf("shapes %d\n", other->onShapeChange(&in_other, 1, &out_other, 1));
    for (auto* each : {context.get(), other.get()}) {
        each->enqueue(&in, &out, inputs, outputs, nullptr, nullptr);
        std::printf("context %d %d\n", launched.batch, launched.queries);
    }

    // Scales by head travel in the launch itself.
    Values by_head;
    by_head.head_scales = {1.0f, 2.0f, 3.0f, 0.5f, 0.25f, 4.0f, 1.5f, 2.5f, 3.5f};
    auto scaled = create(fields_of(by_head));
    std::printf("shapes %d\n", scaled->onShapeChange(&in, 1, &out, 1));
    std::printf("enqueue %d\n", scaled->enqueue(&in, &out, inputs, outputs, nullptr, nullptr));
    std::printf("factors %d", launched.scale_heads);
    for (int h = 0; h < 3; ++h) {
        std::printf(" %.9g %.9g", launched.logit_factors[h], launched.out_factors[h]);
    }
    std::printf("\n");

    PluginTensorDesc const narrow = tensor(DataType::kINT8, {2, 197, 3 * 191});
    std::printf("shapes %d\n", context->onShapeChange(&narrow, 1, &out, 1));
    PluginTensorDesc const four[] = {tensor(DataType::kINT8, {2, 3, 5, 64}), tensor(DataType::kINT8, {2, 3, 7, 64}),
                                     tensor(DataType::kINT8, {2, 3, 7, 64}), tensor(DataType::kHALF, {3, 1, 5, 7})};
    PluginTensorDesc const half_out = tensor(DataType::kHALF, {2, 5, 192});
    std::printf("shapes %d\n", biased->onShapeChange(four, 4, &half_out, 1));

    refuse([](Values& v) { v.layout = "bnhdd"; });
    refuse([](Values& v) { v.num_heads = 0; });
    refuse([](Values& v) { v.has_bias = 2; });
    refuse([](Values& v) { v.head_dim = 48; });
    refuse([](Values& v) { v.k_scale = 0.0f; });
    refuse([](Values& v) { v.scale = -1.0f; });
    refuse([](Values& v) { v.out_scale = __builtin_nanf(""); });
    refuse([](Values& v) { v.head_scales = {1.0f, 2.0f}; });
    refuse([](Values& v) { v.num_heads = 65, v.head_scales.assign(195, 2.0f); });
    std::vector<PluginField> absent = fields_of(values);
    absent.erase(absent.end() - 2);
    std::printf("created %d\n", create(absent) != nullptr ? 1 : 0);
    std::vector<PluginField> mistyped = fields_of(values);
    mistyped[1].type = PluginFieldType::kFLOAT32;
    std::printf("created %d\n", create(mistyped) != nullptr ? 1 : 0);
    return 0;
}
